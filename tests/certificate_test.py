"""Proofs that ``verify`` writes: of boxes, of units, and where there can be none."""

import numpy as np
import onnx
import pytest

import tfcert
from tests.proof_support import Files, mlp, property_text
from tfcert import interchange, methods
from tfcert_check import __main__ as program


def prepared(folder, sizes, limit, width):
    """A network and the property that its only output stays below a limit."""
    proto = mlp(sizes, 3)
    onnx.save(proto, folder / "net.onnx")
    lower, upper = np.full(sizes[0], -width), np.full(sizes[0], width)
    files = Files(folder, proto, property_text(lower, upper, 1, [[[1.0, -limit]]]))
    return files, interchange.load_onnx(files.network_path)


def highest(model, width, inputs):
    points = np.random.default_rng(0).uniform(-width, width, (4000, inputs)).astype("float32")
    return float(np.asarray(model(points)).max())


@pytest.mark.parametrize(("inputs", "method"), [(3, "boxes"), (24, "units")])
def test_what_holds_is_proved_to_a_stranger(tmp_path, inputs, method):
    width = 0.6 if inputs < 20 else 0.25
    _, model = prepared(tmp_path, (inputs, 7, 6, 1), 0.0, width)
    top = highest(model, width, inputs)
    x = np.zeros((1, inputs), "float32")
    loose = float(np.asarray(tfcert.bound(model, x, tfcert.LpBall(width)).upper)[0, 0])
    limit = top + 0.4 * (loose - top)
    files, model = prepared(tmp_path, (inputs, 7, 6, 1), limit, width)
    asked = tfcert.properties.read_vnnlib(files.property_path)
    outcome = tfcert.verify(
        model, asked, method=methods.CrownIBP(), certificate=files.proof_path, time_limit=100
    )
    assert (outcome.verdict, outcome.method) == ("holds", method), outcome.summary()
    assert outcome.certificate == files.proof_path and outcome.notes == ()
    assert program.main(files.arguments()) == 0


def test_a_property_without_a_file_is_written_beside_the_proof(tmp_path):
    files, model = prepared(tmp_path, (3, 7, 6, 1), 9.0, 0.6)
    asked = tfcert.properties.read_vnnlib(files.property_path)._replace(file=None)
    outcome = tfcert.verify(model, asked, certificate=files.proof_path, time_limit=100)
    assert outcome.certificate == files.proof_path, outcome.summary()
    paths = [str(files.network_path), str(tmp_path / "proof.vnnlib"), str(files.proof_path)]
    assert program.main(paths) == 0
    assert not (tmp_path / "proof.network.npz").exists()  # The ONNX file is the network.


def test_what_is_broken_has_no_proof(tmp_path):
    files, model = prepared(tmp_path, (3, 7, 6, 1), -5.0, 0.6)
    asked = tfcert.properties.read_vnnlib(files.property_path)
    outcome = tfcert.verify(model, asked, certificate=files.proof_path)
    assert outcome.verdict == "violated" and outcome.certificate is None
    assert not files.proof_path.exists()


def test_what_cannot_be_certified_is_said_at_once(tmp_path):
    files, model = prepared(tmp_path, (3, 7, 6, 1), 1.0, 0.6)
    asked = tfcert.properties.read_vnnlib(files.property_path)
    with pytest.raises(ValueError, match="sweeps backward"):
        tfcert.verify(model, asked, method="ibp", certificate=files.proof_path)
    with pytest.raises(ValueError, match="must be None with `certificate`"):
        tree = tfcert.proofs.Tree()
        tfcert.verify(model, asked, recorder=tree, certificate=files.proof_path)
