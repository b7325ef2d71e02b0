"""What to do where a layer of Keras has no rule: the advice of docs/layers.md, as data.

``tests/advice_test.py`` holds the table of that page against this one, and this one against the
rules that there are.
"""

from __future__ import annotations

import keras

__all__ = ["ADVICE", "ANYWAY", "advice_on"]

_IMAGES = "Apply it to the data before the model, so that the region is one of the images it gives."
_RANDOM = (
    "It changes images at random. Augment in the data pipeline, dataset.map(lambda x, y: "
    "(augment(x), y)), and leave it out of the model."
)

# Names of layers in keras.layers, and what to do in place of each.
ADVICE: dict[tuple[str, ...], str] = {
    ("Lambda",): (
        "Its function could not be read. Write the function with keras.ops alone, or write a layer "
        "and give it a rule."
    ),
    ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"): (
        "Use TimeDistributed convolutions before an LSTM, or an RNN around a cell of "
        "your own, as docs/adding_a_rule.md shows."
    ),
    ("SpectralNormalization",): (
        "After training, copy the normalised kernel into a plain layer of the wrapped kind."
    ),
    ("Embedding", "ReversibleEmbedding"): (
        "A ball around integers means nothing. Give words that may be replaced, "
        "tfcert.regions.WordSubstitutions, or bound the part behind the embedding: "
        "tfcert.split_embedding(model).rest."
    ),
    (
        *("StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing"),
        *("Discretization", "CategoryEncoding"),
    ): (
        "Its inputs are categories, and a ball around one means nothing. Bound the model from the "
        "embedded or encoded values on: keras.Model(layer.output, model.output)."
    ),
    ("Masking",): (
        "Which entries count would depend on the input. Remove the masking, and pad with values "
        "that the model was trained on."
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
        "What it computes is not recorded as Keras layers. Rebuild that part with Keras layers and "
        "copy its weights, or load it as ONNX: tfcert.interchange.load_onnx."
    ),
    ("Pipeline",): "Call its layers one after another in the model.",
}

# What works without a rule.
ANYWAY = (
    "Attacks (tfcert.attacks) and smoothing (tfcert.smoothing) need no rule: they work for any "
    "model."
)


def advice_on(operation: keras.Operation, otherwise: str = "") -> str:
    """What to do in place of a layer or operation without a rule.

    Args:
        operation: The layer or operation.
        otherwise: What is said where there is no advice on this very layer; "" for what holds of
            all layers, or of all operations.
    """
    kind = type(operation)
    for names, text in ADVICE.items():
        if any(getattr(keras.layers, name, None) is kind for name in names):
            return text
    if otherwise:
        return otherwise
    if isinstance(operation, keras.layers.Layer):
        return (
            "Keras does not record what its call computes. Write it as keras.ops calls on Keras "
            "tensors in a functional model, which need no rule where each call has one."
        )
    return "docs/layers.md lists the functions of keras.ops that have a rule: write it with those."
