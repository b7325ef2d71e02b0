"""The names that flags accept, listed so that flags can be read before TensorFlow loads.

A test compares each list with the objects that its names select.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re

from tfcert import names

__all__ = [
    "ATTACK_LOSSES",
    "DATASETS",
    "METHODS",
    "MODELS",
    "NOISES",
    "OBJECTIVES",
    "check_dataset",
    "check_model",
    "suggestion",
]

METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "lipschitz")
DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
NOISES = ("gaussian", "laplace", "uniform")
ATTACK_LOSSES = ("cross_entropy", "logits_ratio", "margin")
MODELS = (
    *("dm_small", "dm_medium", "dm_large", "cnn2_w2", "cnn2_w4", "cnn2_w8"),
    *("cnn4_w2", "cnn4_w4", "cnn4_w8", "cnn7", "cnn7_narrow", "cnn7_w8"),
    "lenet",
    *("resnet20", "resnet110", "densenet40", "vit_1_1_4", "vit_2_3_16", "vit_3_3_8", "linf_conv"),
)
_FAMILIES = tuple(
    f"{family}_<layers>x<units>"
    for family in ("mlp", "linf_mlp", "linf_hybrid", "sort_mlp", "sort_hybrid")
)
_FAMILY = re.compile(
    r"mlp_\d+x\d+|linf_(?:mlp|hybrid)_\d+x\d+|sort_(?:mlp|hybrid)_\d+x\d+(?:_keep\d\d)?"
)

_REGION = ("ramp", "train_eps", "validation_method")
_BOUNDED = (*_REGION, "natural_weight", "regularizer", "tolerance")
_BACKWARD = (*_BOUNDED, "backward_weight", "slope")
_ATTACKED = ("attack_restarts", "attack_step_size", "attack_steps")
_SMALL_BOX = (*_BOUNDED, *_ATTACKED, "ratio", "relu_shrink")
_LATENT = (
    *("gradient_scale", "ibp_warmup", "link", "per_sample", "relu_shrink", "search_restarts"),
    *("search_steps", "trailing_layers"),
)
_EXPRESSIVE = (*_BOUNDED, *_ATTACKED, "attack_scale", "ibp_weight")
_NOISY = ("sigma", "copies")
# What each objective takes by --option or by a flag of its own, besides its region.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "standard": ("validation_method",),
    "adversarial": (*_REGION, "step_size", "steps"),
    "ibp": _BOUNDED,
    "crown-ibp": _BACKWARD,
    "crown-ibp-fused": _BACKWARD,
    "maar": (
        *_BACKWARD,
        *("classification", "consistency_bound", "detach", "divergence", "selection", "weight"),
    ),
    "tight": (
        *_BACKWARD,
        *("base", "distance", "feasibility_weight", "gap_weight", "reduction", "specifications"),
    ),
    "advibp": (
        *_REGION,
        *("attack_ramp", "attack_steps", "backward_weight", "clean_warmup", "conflict_threshold"),
        *("gradients", "joint_begin", "rescale", "stage"),
    ),
    "sabr": _SMALL_BOX,
    "taps": (*_BOUNDED, *_LATENT),
    "staps": tuple(dict.fromkeys((*_SMALL_BOX, *_LATENT))),
    "mtl-ibp": _EXPRESSIVE,
    "cc-ibp": _EXPRESSIVE,
    "exp-ibp": (*_EXPRESSIVE, "per_sample"),
    "linf": (
        *_REGION,
        "exponents",
        "loss",
        "mean_over",
        "method",
        "mixture",
        "scale_rate",
        "weight",
    ),
    "gaussian": (*_NOISY, "noise"),
    "stability": (*_NOISY, "noise", "weight"),
    "smoothadv": (*_NOISY, "noise", "clip", "radius", "steps", "warmup"),
    "macer": (*_NOISY, "beta", "gamma", "weight"),
    "consistency": (*_NOISY, "noise", "clip", "eta", "form", "radius", "steps", "warmup", "weight"),
}


def suggestion(word: str, known: tuple[str, ...] | list[str], before: str = "") -> str:
    """A sentence with the nearest name, or nothing.

    >>> suggestion("crwon", METHODS), suggestion("lr", ["learning_rate"], "--")
    (' Did you mean crown?', ' Did you mean --learning_rate?')
    """
    near = names.nearest(word, known)
    return f" Did you mean {before}{near}?" if near else ""


def check_model(name: str) -> None:
    """Raises unless --model names an architecture."""
    if name not in MODELS and not _FAMILY.fullmatch(name):
        raise ValueError(
            f"--model={name}: there is no such architecture.{suggestion(name, MODELS)} "
            f"Choose one of {', '.join((*MODELS, *_FAMILIES))}."
        )


def check_dataset(name: str | None, data_dir: str | None) -> None:
    """Raises unless --dataset names a data set that can be read or downloaded."""
    if name is None or name == "digits":
        return
    if name.startswith("tfds:"):
        if importlib.util.find_spec("tensorflow_datasets") is None:
            raise ValueError(
                f"--dataset={name} needs the package tensorflow-datasets: "
                "pip install tensorflow-datasets"
            )
        return
    if name in DATASETS:
        path = pathlib.Path(data_dir or ".", f"{name}.npz")
        if data_dir is not None and not path.is_file():
            raise ValueError(f"--data_dir={data_dir} holds no {name}.npz.")
    elif not pathlib.Path(name).exists():
        what = "no such file" if name.endswith(".npz") else "no such data set, file or folder"
        raise ValueError(
            f"--dataset={name}: there is {what}.{suggestion(name, DATASETS)} "
            f"Choose one of {', '.join(DATASETS)}, an .npz file, a folder of images, or tfds:NAME."
        )
