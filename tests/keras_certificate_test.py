"""Proofs of Keras models: what ``verify`` writes, and what the checker says of other files."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

import tfcert
import tfcert_check
from tests import support
from tests.float_safe_support import draw_weights
from tfcert import methods, proofs, properties
from tfcert.branching import certificates
from tfcert.proofs.values import values_of
from tfcert_check import __main__ as program


def paths(folder):
    return [str(folder / name) for name in ("proof.network.npz", "proof.vnnlib", "proof.npz")]


def dense():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Rescaling(0.5, 0.1),
            layers.Dense(8, activation="relu"),
            layers.Dense(7),
            layers.LeakyReLU(negative_slope=0.25),
            layers.Dense(4),
        ]
    )


def wide():
    hidden = [layers.Dense(7, activation="relu"), layers.Dense(6, activation="relu")]
    return keras.Sequential([keras.Input((24,)), *hidden, layers.Dense(4)])


def residual():
    i = keras.Input((5, 5, 1))
    x = layers.Conv2D(2, 3, strides=2, padding="same", use_bias=False)(i)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.ReLU()(layers.Add()([x, layers.Conv2D(2, 3, padding="same")(x)]))
    x = layers.Flatten()(layers.AveragePooling2D(2, strides=1)(x))
    return keras.Model(i, layers.Dense(4)(x))


def pool():
    i = keras.Input((3, 3, 1))
    x = layers.MaxPooling2D(2, strides=1)(layers.Conv2D(2, 2, padding="same")(i))
    x = layers.ReLU()(layers.Conv2D(3, 2)(x))
    return keras.Model(i, layers.Dense(4)(layers.Flatten()(x)))


def drawn(make, seed=0):
    model = make()
    rng = np.random.default_rng(seed)
    draw_weights(model, rng)
    return model, rng.uniform(-0.5, 0.5, (1, *model.input_shape[1:])).astype("float32")


def tight(model, x, region, rows, ease):
    """A property between what holds and what CROWN proves: ease is 0 there, and 1 here."""
    rows = np.asarray(rows, "float32")
    least = [least_of(model, x[0], region.eps, row) for row in rows]
    loose = tfcert.bound_margins(model, x, None, region, "crown", specification=rows[None])
    return properties.Linear(rows, 1e-2 - (least + ease * (np.asarray(loose)[0] - least)))


def least_of(model, x, eps, row):
    """The least value of a row that flips of single inputs find from some corners."""
    rng, found = np.random.default_rng(0), np.inf
    for _ in range(3):
        signs, best = rng.choice([-1.0, 1.0], x.size), np.inf
        while True:
            flips = signs * (1 - 2 * np.eye(x.size))
            points = x + eps * flips.reshape(-1, *x.shape)
            values = np.asarray(model(points.astype("float32"))) @ row
            if values.min() >= best:
                break
            best, signs = values.min(), flips[values.argmin()]
        found = min(found, best)
    return found


ROWS = [[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5]]


def proved(folder, make, eps, method=None, ease=0.6):
    model, x = drawn(make)
    region = tfcert.LpBall(eps)
    asked = tight(model, x, region, ROWS, ease)
    outcome = tfcert.verify(
        model,
        asked,
        x,
        region,
        method=method or "crown",
        certificate=folder / "proof.npz",
        time_limit=100,
    )
    assert outcome.verdict == "holds", outcome.summary()
    assert outcome.certificate == folder / "proof.npz", outcome.notes
    return model, outcome


CASES = {
    "boxes": (dense, 0.5),
    "units": (wide, 0.3),
    "residual": (residual, 0.6),
    "pool": (pool, 0.5),
}


@pytest.mark.parametrize("name", support.slow_except("boxes".__eq__, CASES))
def test_a_keras_model_is_proved_to_a_stranger(tmp_path, name):
    _, outcome = proved(tmp_path, *CASES[name])
    assert outcome.domains > 2, "nothing was split"
    assert program.main(paths(tmp_path)) == 0


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proved")
    proved(folder, *CASES["boxes"])
    return folder


def verdict(folder, capsys):
    code = program.main(paths(folder))
    return code, capsys.readouterr().out


def copied(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def changed(path, **arrays):
    with np.load(path) as file:
        np.savez(path, **{**{name: file[name] for name in file.files}, **arrays})


def test_other_weights_and_graphs_are_refused(tmp_path, folder, capsys):
    copied(folder, tmp_path)
    net, asked, proof = paths(tmp_path)
    with np.load(net) as file:
        arrays = {name: file[name] for name in file.files}
    graph = json.loads(str(arrays["graph"]))
    weights = next(n for n, a in arrays.items() if a.ndim == 2 and a.dtype == np.float32)
    calls = [c if c[0] != "Relu" else ["Identity", *c[1:]] for c in graph["calls"]]
    edits = [
        {weights: arrays[weights] * np.float32(1.5)},
        {"graph": np.array(json.dumps({**graph, "calls": calls}))},
    ]
    for edit in edits:
        copied(folder, tmp_path)
        changed(net, **edit)
        code, out = verdict(tmp_path, capsys)
        assert code == 1 and "about another network" in out
        # With the sum of the new file, what the proof says is not true, or not proved.
        changed(proof, network=np.array(tfcert_check.read_network(net).sha256))
        code, out = verdict(tmp_path, capsys)
        assert code == 1 and "is not proved" in out
    copied(folder, tmp_path)
    with open(asked, encoding="utf-8") as file:
        text = file.read()
    with open(asked, "w", encoding="utf-8") as file:
        file.write(text.replace("(>= X_0 -", "(>= X_0 -1"))
    code, out = verdict(tmp_path, capsys)
    assert code == 1 and "about another property" in out


def test_top_k_and_several_inputs_are_proved(tmp_path):
    model, _ = drawn(dense)
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (3, 3)).astype("float32")
    scores = np.asarray(model(x))
    second = np.argsort(scores, axis=1)[:, -2]
    asked = properties.TopK(second, 2)
    outcome = tfcert.verify(
        model, asked, x, tfcert.LpBall(0.01), certificate=tmp_path / "proof.npz", time_limit=60
    )
    assert outcome.verdict == "holds", outcome.summary()
    assert program.main(paths(tmp_path)) == 0
    question = tfcert_check.read_property(tmp_path / "proof.vnnlib")
    assert len(question.cases) == 9 and {len(case.rows) for case in question.cases} == {2}


@pytest.mark.slow
def test_top_k_is_proved_by_splits_of_units(tmp_path):
    model, x = drawn(wide)
    second = int(np.argsort(np.asarray(model(x))[0])[-2])
    outcome = tfcert.verify(
        model,
        properties.TopK(second, 2),
        x,
        tfcert.LpBall(0.05),
        certificate=tmp_path / "proof.npz",
        time_limit=100,
    )
    assert (outcome.verdict, outcome.method) == ("holds", "units"), outcome.summary()
    assert outcome.certificate is not None, outcome.notes
    assert program.main(paths(tmp_path)) == 0


def test_a_softmax_is_left_out_of_the_written_network(tmp_path):
    model, x = drawn(dense)
    whole = keras.Sequential([*model.layers, layers.Softmax()])
    whole.build((None, 3))
    label = int(np.argmax(np.asarray(whole(x))[0]))
    asked = properties.ClassStays(label)
    outcome = tfcert.verify(
        whole, asked, x, tfcert.LpBall(0.005), certificate=tmp_path / "proof.npz", time_limit=60
    )
    assert outcome.verdict == "holds", outcome.summary()
    assert program.main(paths(tmp_path)) == 0
    network = tfcert_check.read_network(tmp_path / "proof.network.npz")
    np.testing.assert_allclose(
        values_of(network, x.astype("float64"))[network.output], np.asarray(model(x)), atol=1e-5
    )


def test_what_the_checker_does_not_know_is_said_at_once(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(2)]
    )
    asked, x = properties.ClassStays(0), np.zeros((1, 3), "float32")
    with pytest.raises(NotImplementedError, match="'tanh', which the checker of proofs does not"):
        tfcert.verify(model, asked, x, tfcert.LpBall(0.1), certificate=tmp_path / "proof.npz")
    assert not list(tmp_path.iterdir())


def test_what_is_broken_leaves_no_files(tmp_path):
    model, x = drawn(dense)
    label = int(np.argmin(np.asarray(model(x))[0]))
    asked = properties.ClassStays(label)
    outcome = tfcert.verify(model, asked, x, tfcert.LpBall(0.1), certificate=tmp_path / "proof.npz")
    assert outcome.verdict == "violated" and not list(tmp_path.iterdir())


# As executed.


SAFE = methods.Crown(float_safe=True)


@pytest.mark.parametrize(
    "name", support.slow_except("boxes".__eq__, ["boxes", "units", "residual"])
)
def test_proofs_with_float_safe_hold_as_executed(tmp_path, name):
    proved(tmp_path, *CASES[name], SAFE)
    assert program.main(["--float_safe", *paths(tmp_path)]) == 0


@pytest.mark.slow
def test_a_search_that_leaves_no_room_for_rounding_is_told(tmp_path, monkeypatch):
    """The checker decides about the network as executed where units are split."""
    monkeypatch.setattr(certificates.proofs, "write_proof", refusing)
    model, x = drawn(wide)
    region = tfcert.LpBall(0.1)
    asked = tight(model, x, region, ROWS, 1.5)
    given = {"method": SAFE, "certificate": tmp_path / "proof.npz", "time_limit": 100}
    outcome = tfcert.verify(model, asked, x, region, **given)
    assert (outcome.verdict, outcome.limit) == ("unknown", "rounding")
    assert "as executed" in outcome.reason and outcome.certificate is None
    # Without a certificate nothing is said of the checker.
    given["method"] = dataclasses.replace(SAFE, float_safe=False)
    assert tfcert.verify(model, asked, x, region, **given).verdict == "holds"


def refusing(*arguments):
    raise ValueError("`tree` is not a proof.")


def test_own_searches_may_prove_keras_models(tmp_path):
    model, x = drawn(dense)
    net, asked, proof = paths(tmp_path)
    proofs.write_network(net, model)
    lower, upper = (x[0] + side * np.float32(0.01) for side in (-1, 1))
    low = "".join(f"(assert (>= X_{i} {v:.60g}))" for i, v in enumerate(lower))
    high = "".join(f"(assert (<= X_{i} {v:.60g}))" for i, v in enumerate(upper))
    names = "".join(f"(declare-const X_{i} Real)" for i in range(3))
    names += "".join(f"(declare-const Y_{i} Real)" for i in range(4))
    with open(asked, "w", encoding="utf-8") as file:
        file.write(names + low + high + "(assert (>= Y_0 100.0))")
    tree = proofs.Tree()
    tree.close(tree.add_root(0), 0)
    assert proofs.write_proof(proof, tree, model, net, asked, float_safe=True) == 1
    assert program.main(["--float_safe", net, asked, proof]) == 0
