"""Advice for Keras layers without a rule, the same as in the table of docs/layers.md.

``tests/advice_test.py`` compares this table with the table of that page and with the registered
rules.
"""

from __future__ import annotations

import keras

__all__ = ["ADVICE", "ANYWAY", "advice_on"]

_IMAGES = (
    "Apply this layer to the data before the model. The region then describes changes of the "
    "layer's output."
)
_RANDOM = (
    "This layer changes images at random. Move it from the model to the data pipeline: "
    "dataset.map(lambda x, y: (augment(x), y))."
)

# Names of layers in keras.layers, and what to do in place of each.
ADVICE: dict[tuple[str, ...], str] = {
    ("Lambda",): (
        "The function of this layer cannot be read. Write the function with keras.ops alone, or "
        "write a layer and give it a rule."
    ),
    ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"): (
        "Use TimeDistributed convolutions before an LSTM, or write an RNN cell and give it a rule, "
        "as docs/adding_a_rule.md shows."
    ),
    ("SpectralNormalization",): (
        "After training, copy the normalised kernel into a plain layer of the wrapped kind."
    ),
    ("Embedding", "ReversibleEmbedding"): (
        "The input holds integers, and a ball around an integer has no meaning. Use "
        "tfcert.regions.WordSubstitutions, which names the words that may be replaced, or bound "
        "the part after the embedding: tfcert.split_embedding(model).rest."
    ),
    (
        *("StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing"),
        *("Discretization", "CategoryEncoding"),
    ): (
        "The input holds categories, and a ball around a category has no meaning. Bound the part "
        "of the model after this layer: keras.Model(layer.output, model.output)."
    ),
    ("Masking",): (
        "The input would decide which entries count. Remove the masking, and pad with values that "
        "the model was trained on."
    ),
    ("Resizing", "CenterCrop", "STFTSpectrogram", "MelSpectrogram", "MaxNumBoundingBoxes"): _IMAGES,
    (
        *("RandomCrop", "AugMix", "AutoContrast", "CutMix", "MixUp", "RandAugment", "Solarization"),
        *("ContrastLimitedAdaptiveHistogramEqualization", "Equalization", "RandomErasing"),
        *("RandomColorDegeneration", "RandomColorJitter", "RandomElasticTransform"),
        *("RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
        *("RandomPerspective", "RandomPosterization", "RandomSaturation", "RandomSharpness"),
        "RandomShear",
    ): _RANDOM,
    (
        *("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D"),
        *("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D"),
    ): "Use a pooling layer with a fixed pool_size and strides, or a global one.",
    ("JaxLayer", "FlaxLayer", "TFSMLayer", "TorchModuleWrapper"): (
        "Keras does not record what this layer computes. Rebuild the layer's network with Keras "
        "layers and copy the weights, or load it from an ONNX file: "
        "tfcert.interchange.load_onnx."
    ),
    ("Pipeline",): "Call the pipeline's layers one after another in the model.",
}

# Advice that ends every refusal: these methods work without a rule.
ANYWAY = (
    "Attacks (tfcert.attacks) and smoothing (tfcert.smoothing) need no rule: they work for any "
    "model."
)


def advice_on(operation: keras.Operation, otherwise: str = "") -> str:
    """Returns advice for a layer or operation without a rule.

    Args:
        operation: The layer or operation.
        otherwise: The advice if the table has none for this layer. "" stands for the general
            advice on layers, or on operations.
    """
    kind = type(operation)
    for names, text in ADVICE.items():
        if any(getattr(keras.layers, name, None) is kind for name in names):
            return text
    if otherwise:
        return otherwise
    if isinstance(operation, keras.layers.Layer):
        return (
            "Keras does not record what its call computes. Replace the layer by keras.ops calls on "
            "Keras tensors in a functional model; docs/layers.md lists the functions with a rule."
        )
    return (
        "docs/layers.md lists the functions of keras.ops that have a rule. Write this operation "
        "with those functions."
    )
