"""Kinds of values of flags: names with their aliases, norms, and sizes such as 8/255."""

from __future__ import annotations

import math
from collections.abc import Sequence

from absl import flags

from tfcert import names
from tfcert.cli import choices
from tfcert.cli.choices import suggestion

__all__ = [
    "DATASET_HELP",
    "DATA_DIR_HELP",
    "NameParser",
    "check_size",
    "define_names",
    "define_norm",
    "define_size",
    "define_smoothing",
]


# Help that programs share.
DATASET_HELP = (
    f"Data set: {', '.join(choices.DATASETS)}, an .npz file, a folder of images, or tfds:NAME. "
    "Pixels become numbers from 0 to 1."
)
DATA_DIR_HELP = "Folder with the data set as NAME.npz. Default: Keras downloads the data."


class NameParser(flags.EnumParser):
    """One of some names, in any spelling: CROWN_IBP is crown-ibp."""

    def parse(self, argument: str) -> str:
        """The name as it is listed."""
        for text in (argument, names.norm_text(argument)):
            found = names.find(text, self.enum_values)
            if found is not None:
                return found
        near = suggestion(argument, self.enum_values)
        raise ValueError(f"must be one of {', '.join(self.enum_values)}.{near}")


class _NamesParser(flags.ListParser):
    """Several names, separated by commas."""

    def __init__(self, enum_values: Sequence[str]):
        super().__init__()
        self.enum_values = list(enum_values)

    def parse(self, argument: str | list[str]) -> list[str]:
        """The names as they are listed."""
        one = NameParser(self.enum_values)
        return [one.parse(word) for word in super().parse(argument)]


class _NormParser(flags.ArgumentParser[str]):
    """p of an l_p norm, as text."""

    syntactic_help = "a norm"

    def parse(self, argument: str) -> str:
        """The norm as "inf" or a number's digits."""
        text = names.norm_text(argument)
        try:
            valid = float(text) >= 1
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("must be inf, or a number from 1 on such as 2.")
        return text

    def flag_type(self) -> str:
        """Returns the name of the type in --help."""
        return "norm"


class _SizeParser(flags.ArgumentParser[float]):
    """A number of at least 0, also as a fraction: 8/255."""

    syntactic_help = "a number or a fraction"

    def parse(self, argument: str | float) -> float:
        """The number."""
        parts = str(argument).split("/")
        try:
            value = float(parts[0]) / (float(parts[1]) if len(parts) == 2 else 1.0)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if len(parts) > 2 or not 0 <= value < math.inf:
            raise ValueError("must be a number of at least 0, or a fraction such as 8/255.")
        return value

    def flag_type(self) -> str:
        """Returns the name of the type in --help."""
        return "size"


def define_names(name: str, default: Sequence[str], known: Sequence[str], text: str) -> None:
    """Defines a flag of several names."""
    flags.DEFINE(
        _NamesParser(known), name, list(default), text, serializer=flags.CsvListSerializer(",")
    )


def define_norm(name: str, default: str | None, text: str) -> None:
    """Defines a flag of a norm; its value is "inf" or the digits of a number."""
    flags.DEFINE(_NormParser(), name, default, text)


def define_size(name: str, default: float | None, text: str) -> None:
    """Defines a flag of a radius, which may be a fraction."""
    flags.DEFINE(_SizeParser(), name, default, text)


def define_smoothing() -> None:
    """Defines the flags of certificates by smoothing."""
    flags.DEFINE_enum("noise", None, choices.NOISES, "Kind of noise. Default: gaussian.")
    flags.DEFINE_float(
        "sigma", None, "Width of the noise: the standard deviation of Gaussian noise.", 0.0
    )
    flags.DEFINE_integer("n0", None, "Noisy samples that choose the class. Default: 100.", 1)
    flags.DEFINE_integer("n", None, "Noisy samples for the radius. Default: 100,000.", 1)
    flags.DEFINE_float(
        "alpha", None, "Largest probability of a wrong certificate. Default: 0.001.", 0.0
    )
    flags.DEFINE_bool(
        "adaptive", None, "Stop sampling early where more samples would change the radius little."
    )
    flags.DEFINE_float(
        "adaptive_precision",
        None,
        "Share of the radius that --adaptive may give up. Default: 0.05.",
    )


def check_size(name: str, eps: float | None, norm: str | None) -> None:
    """Raises where a radius is larger than the range of pixels, which is 1."""
    if eps is not None and eps > 1.0 and norm in (None, "inf"):
        meant = f" Did you mean --{name}={eps:g}/255?" if eps <= 255 else ""
        raise ValueError(
            f"--{name} must be at most 1, since pixels are numbers from 0 to 1. "
            f"Received: --{name}={eps:g}.{meant}"
        )
