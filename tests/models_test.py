"""The papers' architectures: sizes, shapes, preprocessing, initialisation, errors."""

import keras
import numpy as np
import pytest

from tests import soundness, support
from tfcert import LpBall, bound, layers, models

# Parameters on MNIST and CIFAR-10 shapes; the first three are the papers' 0.55, 1.97, 13.3 million.
SIZES = {
    "dm_small": (550406, 730118),
    "dm_medium": (1974762, 2466858),
    "dm_large": (13257290, 17190602),
    # The papers' 0.27 and 1.7 million for CIFAR-10, 1.0 million for the DenseNet (k = 12).
    "lenet": (431080, 657080),
    "resnet20": (272186, 272474),
    "resnet110": (1730426, 1730714),
    "densenet40": (1019434, 1019722),
    # One and four patches of 16 x 16, nine and sixteen of 8 x 8.
    "vit_2_3_16": (50794, 76954),
    "vit_3_3_8": (64762, 74602),
}


@pytest.mark.parametrize("name", support.slow_except("resnet110".__ne__, SIZES))
def test_parameters(name):
    counts = []
    for shape in ((28, 28, 1), (32, 32, 3)):
        weights = models.get(name, shape, 10).trainable_weights
        counts.append(sum(int(np.prod(weight.shape)) for weight in weights))
    assert tuple(counts) == SIZES[name]


# Those of SIZES are too large for this test; their parts are those of the others.
@pytest.mark.parametrize(
    "name",
    [
        *sorted(set(models.NAMES) - set(SIZES)),
        *("mlp_3x20", "linf_mlp_3x20", "linf_hybrid_3x20", "sort_mlp_3x20", "sort_hybrid_3x20"),
    ],
)
def test_every_model_ends_in_logits_and_has_bounds(name):
    model = models.get(name, (8, 8, 2), 4)
    assert model.name == name
    last = model.layers[-1]
    if isinstance(last, keras.layers.Rescaling):  # Scores are negative distances.
        assert isinstance(model.layers[-2], layers.LInfDistance) and last.scale == -1.0
    else:
        assert isinstance(last, keras.layers.Dense)
        assert last.activation is keras.activations.linear
    x = np.full((2, 8, 8, 2), 0.5, "float32")
    with soundness.eagerly():
        low, high = bound(model, x, LpBall(0.01), method="ibp")
        scores = np.asarray(model(x))
    assert scores.shape == (2, 4)
    assert (np.asarray(low) <= scores).all() and (scores <= np.asarray(high)).all()


def test_normalization_is_inside():
    keras.utils.set_random_seed(0)
    plain = models.get("mlp_1x8", (4, 4, 3), 2)
    inside = models.get("mlp_1x8", (4, 4, 3), 2, mean=(0.1, 0.2, 0.3), std=0.5)
    inside.set_weights([w for w in inside.get_weights() if w.size < 0] + _weights(plain, inside))
    x = np.random.default_rng(0).uniform(size=(3, 4, 4, 3)).astype("float32")
    expected = plain((x - np.array([0.1, 0.2, 0.3], "float32")) / 0.5)
    np.testing.assert_allclose(inside(x), expected, rtol=1e-4, atol=1e-5)


def _weights(plain, inside):
    """The trained weights of one model in the order of another's, which may hold more."""
    trained = iter(plain.get_weights())
    return [
        next(trained) if variable.trainable else variable.numpy() for variable in inside.weights
    ]


def test_ibp_initialization_keeps_the_width_of_intervals():
    keras.utils.set_random_seed(0)
    model = models.get("mlp_6x256", (400,), 10)
    x = np.random.default_rng(0).uniform(size=(8, 400)).astype("float32")
    inner = keras.Model(model.inputs, model.layers[-2].output)

    def width():
        low, high = bound(inner, x, LpBall(0.01), method="ibp")
        return float(np.mean(np.asarray(high) - np.asarray(low)))

    before = width()
    models.ibp_initialization(model, seed=1)
    first = [layer.get_weights()[0] for layer in model.layers if layer.get_weights()]
    np.testing.assert_allclose(first[0].std(), np.sqrt(2 * np.pi) / 400, rtol=0.05)
    # A ReLU behind intervals around 0 halves their width: each layer gives back what it takes.
    assert before > 1e3 * width()
    assert 0.002 < width() < 0.05
    models.ibp_initialization(model, seed=1)
    again = [layer.get_weights()[0] for layer in model.layers if layer.get_weights()]
    np.testing.assert_array_equal(first[2], again[2])


def test_fan_in_of_convolutions():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 8)),
            layers.Conv2D(64, 3),
            layers.DepthwiseConv2D(3, depth_multiplier=8),
            layers.Conv2DTranspose(16, 2),
        ]
    )
    models.ibp_initialization(model)
    for layer, fan_in in zip(model.layers, (72, 9, 2 * 2 * 512), strict=True):
        spread = layer.get_weights()[0].std()
        np.testing.assert_allclose(spread, np.sqrt(2 * np.pi) / fan_in, rtol=0.08)


def test_errors():
    with pytest.raises(ValueError, match="`name` must be one of dm_small"):
        models.get("resnet", (8, 8, 1), 2)
    with pytest.raises(ValueError, match="takes images"):
        models.get("dm_small", (8,), 2)


def test_networks_of_distances():
    model = models.get("linf_mlp_4x6", (28, 28, 1), 10, mean=0.1307, std=0.3081)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [
        *("Normalization", "Flatten"),
        *(3 * ["LInfDistance", "MeanShift"]),
        *("LInfDistance", "Rescaling"),
    ]
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == 784 * 6 + 2 * 6 * 6 + 6 * 10 + 10
    # The hidden layer pairs each unit with an input, far from the others.
    kernel = np.asarray(layers.distance_layers(model)[1].kernel)
    assert (np.diag(kernel) == -10.0).all() and np.abs(kernel - np.diag(np.diag(kernel))).max() < 6
    with pytest.raises(ValueError, match="at least 2 layers"):
        models.get("linf_mlp_1x8", (4, 4, 1), 10)


def test_networks_of_sorted_distances():
    model = models.get("sort_mlp_3x6_keep85", (4, 4, 1), 10)
    kinds = [type(layer).__name__ for layer in model.layers]
    shifted = ["LInfDistance", "MeanShift", "SortedDistance", "MeanShift"]
    assert kinds == ["Flatten", *shifted, "SortedDistance", "Rescaling"]
    sorting = layers.distance_layers(model)[1:]
    assert [layer.keep for layer in sorting] == [0.85, 0.85]
    assert models.get("sort_mlp_2x6", (4, 4, 1), 10).layers[-2].keep == 0.75
    hybrid = models.get("sort_hybrid_4x6", (4, 4, 1), 10)
    assert [type(layer).__name__ for layer in hybrid.layers] == [
        "Flatten",
        *shifted,
        "Dense",
        "Dense",
    ]
    assert hybrid.layers[-2].activation is keras.activations.tanh
    for name in ("sort_mlp_1x8", "sort_hybrid_2x8", "sort_mlp_3x8_keep00", "linf_mlp_3x8_keep50"):
        with pytest.raises(ValueError, match="has at least"):
            models.get(name, (4, 4, 1), 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.0}, "`std` must be > 0"),
        ({"std": (0.1, -1.0, 0.1)}, "`std` must be > 0"),
        ({"mean": float("nan")}, "`mean` must be a finite number"),
        ({"mean": (0.1, 0.2)}, "one for each of 3 channels"),
        ({"name": None}, "`name` must be a string"),
        ({"input_shape": 8}, "`input_shape` must be a tuple"),
        ({"input_shape": (3, 3, 3)}, "'dm_small' does not fit inputs of shape .3, 3, 3."),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.get(**{"name": "dm_small", "input_shape": (8, 8, 3), "classes": 2, **arguments})
