"""The instances in ``../shared/vnncomp``, in groups that share a network."""

import csv
import pathlib
import re
from typing import NamedTuple

import numpy as np

from tests import support
from tfcert import interchange, regions


class Instance(NamedTuple):
    """One line of expected.csv."""

    benchmark: str
    network: pathlib.Path
    property: pathlib.Path
    verdict: str

    @property
    def name(self) -> str:
        # ACASXU_run2a_1_9_batch_2000 and prop_3: properties have the same names for all networks.
        network = re.sub(r"\D*_run2a_|_batch_2000|_bn.*", "", self.network.name.split(".onnx")[0])
        return f"{network}/{self.property.name.removesuffix('.vnnlib.gz')}"


def instances(*benchmarks: str) -> list[Instance]:
    """All instances of some benchmarks; skips the test where there are no files."""
    folder = support.shared_path("vnncomp")
    with open(folder / "expected.csv", encoding="utf-8", newline="") as file:
        return [
            Instance(
                row["benchmark"],
                folder / row["benchmark"] / row["onnx"],
                folder / row["benchmark"] / row["vnnlib"],
                row["verdict"],
            )
            for row in csv.DictReader(file)
            if row["benchmark"] in benchmarks
        ]


def region(
    asked: list[interchange.Property], shape: tuple, copies: int
) -> tuple[regions.Box, np.ndarray]:
    """The boxes of properties with one box, each several times, and their middles."""
    limits = [[one.cases[0][end].reshape(shape) for one in asked] for end in (0, 1)]
    lower, upper = (np.repeat(end, copies, axis=0) for end in limits)
    return regions.Box(lower, upper), (0.5 * (lower + upper)).astype("float32")
