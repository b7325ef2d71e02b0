"""The checker decides about networks as executed in float32: compared with many executions."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcert_check
from tests import executions, soundness, support
from tests.float_safe_support import draw
from tests.network_files_test import CASES
from tests.proof_support import one_leaf, property_text
from tfcert import proofs
from tfcert_check import __main__ as program
from tfcert_check import rounding, steps
from tfcert_check.bounds import Enclosure


@pytest.fixture(scope="module", autouse=True)
def _eagerly():
    with soundness.eagerly():
        yield


def escapes(path, model, x, radius, seed, count=18):
    """How many values of executions lie outside of intervals or below bounds of rows."""
    proofs.write_network(path, model)
    network = tfcert_check.read_network(path, float_safe=True)
    rng = np.random.default_rng(seed)
    x = x.reshape(len(x), -1).astype("float64")
    lower, upper = rounding.outward(x - radius, x + radius)
    enclosure = Enclosure(network, lower, upper)
    outputs = network.steps[network.output].size
    rows = np.concatenate([np.eye(outputs), rng.normal(size=(4, outputs))])
    bounds = enclosure.lower_bounds(network.output, np.tile(rows, (len(x), 1, 1)))
    low, high = enclosure.intervals[network.output]
    found = 0
    for run in executions.executions(count, seed):
        corners = rng.choice([-1.0, 1.0], x.shape)
        for points in (x, x + radius * corners):
            values = run.run(model, points.reshape(-1, *model.input_shape[1:]))
            values = values.reshape(len(x), -1)
            found += ((values < low) | (values > high)).sum()
            found += (values @ rows.T < bounds - 1e-14 * np.abs(values).max()).sum()
    return found


# Executions know no one-dimensional convolutions, and no operations that permute.
KINDS = {name: case for name, case in CASES.items() if name not in ("sequence", "branches", "rows")}


QUICK = {("dense", 1.0), ("normalised", 1e-40), ("pools", 1.0)}


@pytest.mark.parametrize(
    ("name", "scale"),
    support.slow_except(
        QUICK.__contains__, [(n, s) for n in KINDS for s in (1.0, 1e-40, 1e-12, 1e3)]
    ),
)
def test_no_execution_leaves_the_bounds(tmp_path, name, scale):
    model, x = draw(KINDS[name], 2, scale)
    for seed, radius in enumerate((0.0, 0.01)):
        assert escapes(tmp_path / "net.npz", model, x, radius, seed) == 0


@pytest.mark.parametrize(
    "name", support.slow_except("normalised".__ne__, ["dense", "normalised", "pools"])
)
def test_that_notices_where_executions_are_taken_as_exact(tmp_path, name, monkeypatch):
    monkeypatch.setattr(steps, "executed", lambda terms: 0.0)
    model, x = draw(KINDS[name], 2)
    assert escapes(tmp_path / "net.npz", model, x, 0.0, 0) > 0


def test_sums_that_are_too_long_are_refused():
    assert rounding.executed(1000) >= 1000 * 2.0**-24
    with pytest.raises(tfcert_check.Refused, match="too long"):
        rounding.executed(2**20 + 1)


def test_inputs_are_rounded_outward():
    rng = np.random.default_rng(0)
    lower, upper = rng.normal(size=(2, 1000)) * 10.0 ** rng.integers(-45, 30, (2, 1000))
    low, high = rounding.outward(lower, upper)
    assert (low <= lower).all() and (high >= upper).all()
    assert (low == np.float32(low)).all() and (high == np.float32(high)).all()
    # An execution rounds its inputs to the nearest number.
    assert (low <= np.float32(lower)).all() and (np.float32(upper) <= high).all()


# An attack: margins that are positive, and not where float32 adds up the network.


def cancelling(seed):
    """Scores (z, 0), linear around x, of large values that cancel in the end."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, 24).astype("float32")
    first, second = layers.Dense(16, activation="relu"), layers.Dense(2)
    model = keras.Sequential([keras.Input((24,)), first, second])
    first.set_weights([rng.normal(size=(24, 16)), rng.uniform(20, 40, 16)])
    kernel = np.zeros((16, 2))
    kernel[:, 0] = rng.normal(size=16)
    values = np.maximum(x @ first.get_weights()[0] + first.get_weights()[1], 0)
    second.set_weights([kernel, np.array([1.0 - (values @ kernel)[0], 0.0])])
    return model, x.astype("float64")


class Asked:
    """Files that say: z is above 0 wherever inputs differ from x by at most eps."""

    def __init__(self, folder, network, x, eps):
        self.paths = [str(folder / name) for name in ("net.npz", "asked.vnnlib", "proof.npz")]
        self.lower, self.upper = (np.float32(x + side * eps).astype("float64") for side in (-1, 1))
        text = property_text(self.lower, self.upper, 2, [[[-1.0, 1.0, 0.0]]])
        (folder / "asked.vnnlib").write_text(text)
        self.network = network
        self.asked = tfcert_check.read_property(self.paths[1])
        np.savez(self.paths[2], **one_leaf(self))
        self.proof = tfcert_check.read_proof(self.paths[2])
        ((_, _, self.bound),) = tfcert_check.margins(self.network, self.asked, self.proof)

    def worst(self, model):
        """The least margin of executions at the corner where it is least."""
        slope = model.layers[0].get_weights()[0] @ model.layers[1].get_weights()[0][:, 0]
        point = np.where(slope > 0, self.lower, self.upper)[None]
        runs = [
            executions.Execution(order=order, fused=fused)
            for order in executions.ORDERS
            for fused in (False, True)
        ]
        scores = np.concatenate([run.run(model, point) for run in runs])
        return (scores[:, 0] - scores[:, 1]).min()


def largest(folder, network, x):
    """The largest eps whose one leaf is proved."""
    low, high = 0.0, 0.1
    for _ in range(26):
        middle = 0.5 * (low + high)
        proved = Asked(folder, network, x, middle).bound > 0
        low, high = (middle, high) if proved else (low, middle)
    return low


def test_an_attack_on_rounding_passes_plain_proofs_alone(tmp_path, capsys):
    broken, ratios = 0, []
    for seed in range(4):
        model, x = cancelling(seed)
        proofs.write_network(tmp_path / "net.npz", model)
        networks = [tfcert_check.read_network(tmp_path / "net.npz", kind) for kind in (False, True)]
        plain, safe = (largest(tmp_path, network, x) for network in networks)
        ratios.append(safe / plain)
        found = Asked(tmp_path, networks[0], x, plain)
        assert program.main(found.paths) == 0
        broken += found.worst(model) <= 0
        assert program.main(["--float_safe", *found.paths]) == 1
        found = Asked(tmp_path, networks[1], x, safe)
        assert program.main(["--float_safe", *found.paths]) == 0
        assert found.worst(model) > 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "valid" and out[2] == "valid as executed in float32"
    assert "is not proved" in out[1]
    assert broken >= 2, "the attack is none"
    assert min(ratios) > 0.98 and max(ratios) < 1
