"""The benchmark of branch and bound: its parts are those of a search."""

import numpy as np
import pytest

from tests import results_test, support


@pytest.fixture(name="subject")
def _subject(monkeypatch):
    monkeypatch.syspath_prepend(str(support.ROOT / "benchmarks"))
    return results_test.load("branching_subject")


def question(subject, benchmark, network, name, boxes, parts):
    folder = support.shared_path("vnncomp") / benchmark
    paths = folder / "onnx" / f"{network}.onnx.gz", folder / "vnnlib" / f"{name}.vnnlib.gz"
    return subject.Question(*paths, boxes, parts, 1)


@pytest.mark.slow
def test_units_of_parts_have_their_signs(subject):
    asked = question(subject, "mnist_fc", "mnist-net_256x2", "prop_6_0.03", False, 8)
    found = subject.measure(asked)
    assert set(found["seconds"]) == {"crown", "optimised"} and min(found["seconds"].values()) > 0
    batch = found["batch"]
    assert len(batch["lower"]) == len(batch["rows"]) == 8
    split = np.zeros(8, int)
    for low, high in batch["ends"]:
        assert (low <= high).all()
        split += ((low == 0) | (high == 0)).sum(axis=1)
    # Each part comes from at least two splits.
    assert (split >= 2).all()
    assert found["means"]["optimised"] >= found["means"]["crown"] - 1e-5


@pytest.mark.slow
def test_boxes_are_bounded_below_the_values_in_their_middles(subject):
    from tfcert import interchange

    asked = question(subject, "acasxu", "ACASXU_run2a_1_1_batch_2000", "prop_3", True, 16)
    found = subject.measure(asked)
    batch, model = found["batch"], interchange.load_onnx(asked.network, "float32")
    assert len(batch["lower"]) == 16 and (batch["lower"] <= batch["upper"]).all()
    outputs = np.asarray(model(0.5 * (batch["lower"] + batch["upper"])))
    margins = np.einsum("bro,bo->br", batch["rows"], outputs)
    assert found["means"]["crown"] <= margins.min(axis=1).mean()
