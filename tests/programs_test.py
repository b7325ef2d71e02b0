"""Compiled programs: few, found by what they depend on, and without memory of their arguments."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import ops

import tfcert
from tfcert import backend, programs
from tfcert.attacks import APGD, FGSM, PGD
from tfcert.network import network_of
from tfcert.programs import Programs, programs_of


def small_model(inputs=4):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((inputs,)), *layers])


def data(model, count=2, seed=0):
    x = np.random.default_rng(seed).uniform(0, 1, (count, *model.input_shape[1:]))
    return x.astype("float32"), np.zeros(count, int)


def test_a_call_is_compiled_when_it_comes_back():
    model = small_model()
    x, _ = data(model)
    found = [tfcert.bound(model, x, tfcert.LpBall(0.1), "crown") for _ in range(3)]
    (program,) = programs_of(model)
    assert (program.kind, program.calls, program.traces) == ("bound", 3, 1)
    assert repr(programs_of(model)) == "Programs(<Program bound: 3 calls, 1 traces>)"
    for other in found[1:]:
        np.testing.assert_allclose(found[0].lower, other.lower, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[0].upper, other.upper, rtol=1e-5, atol=1e-6)


def test_where_a_call_takes_long_compiling_waits(monkeypatch):
    monkeypatch.setattr(programs, "_LONG", 0.0)
    model = small_model()
    x, _ = data(model)
    for calls in range(1, 8):
        tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
        (program,) = programs_of(model)
        assert (program.calls, program.traces) == (calls, int(calls > programs.PATIENCE))


def test_large_networks_wait_longer_in_sets_of_inputs_too(monkeypatch):
    monkeypatch.setattr(programs, "_LONG", 0.0)
    monkeypatch.setattr(tfcert.methods.Crown, "patience", lambda *_: 6)
    monkeypatch.setattr(tfcert.methods.Crown, "samples_at_once", lambda *_: 1)
    model = small_model()
    tfcert.bound(model, data(model, 8)[0], tfcert.LpBall(0.1), "crown")  # In eight pieces.
    (program,) = programs_of(model)
    assert (program.calls, program.traces) == (8, 1)


def test_the_square_of_the_nodes_decides_how_long():
    inputs = keras.Input((6, 2))
    recurrent = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.SimpleRNN(4)(inputs)))
    method = tfcert.methods.IBP()
    assert method.patience(network_of(small_model())) == programs.PATIENCE
    small = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.LSTM(4)(inputs)))
    assert method.patience(network_of(small)) > method.patience(network_of(recurrent))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x, tfcert.LpBall(0.1), "ibp"),
        lambda x: (x, tfcert.LpBall(0.1), tfcert.methods.Crown(slope="zero")),
        lambda x: (x, tfcert.LpBall(0.1, norm=2), "crown"),
        lambda x: (x, tfcert.LpBall(0.1, clip=(0.0, 1.0)), "crown"),
        lambda x: (x, tfcert.LpBall(1.0).with_eps([0.1, 0.2]), "crown"),
        lambda x: (x, tfcert.Box(0.0, 1.0), "crown"),
        lambda x: (x[:1], tfcert.LpBall(0.1), "crown"),
    ],
)
def test_what_a_program_depends_on_makes_another_one(change):
    model = small_model()
    x, _ = data(model)
    tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
    tfcert.bound(model, x, tfcert.LpBall(0.3), "crown")
    assert len(programs_of(model)) == 1
    tfcert.bound(model, *change(x))
    assert len(programs_of(model)) == 2


def test_there_are_few_programs_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(programs, "_MOST", 3)
    model = small_model()
    x, _ = data(model, 9)
    for count in (1, 2, 3, 1, 9):
        tfcert.bound(model, x[:count], tfcert.LpBall(0.1), "ibp")
    assert [program.calls for program in programs_of(model)] == [1, 2, 1]
    assert len(programs_of(model)) == 3
    from tfcert.bounds import trace_count

    assert trace_count(model) == 1  # Of the one that came back.


def compiled_for(count, eps):
    """A model whose bounds are compiled for some number of inputs, and the program."""
    model = small_model()
    x, _ = data(model, count)
    region = tfcert.LpBall(0.1).with_eps(np.full(count, 0.1)) if eps == "each" else eps
    for _ in range(2):
        tfcert.bound(model, x, region, "crown")
    (program,) = programs_of(model)
    assert program.traces == 1
    return model, program


@pytest.mark.parametrize("eps", [tfcert.LpBall(0.1), "each"])
@pytest.mark.parametrize("compiled, count, pieces", [(2, 5, 3), (1, 8, 8), (4, 3, 1), (4, 1, 1)])
def test_a_new_number_of_inputs_is_answered_by_what_is_compiled(eps, compiled, count, pieces):
    model, program = compiled_for(compiled, eps)
    x, y = data(model, count, seed=1)
    region = eps if eps != "each" else tfcert.LpBall(0.1).with_eps(np.linspace(0.1, 0.2, count))
    found = tfcert.bound(model, x, region, "crown")
    assert (program.calls, program.traces) == (2 + pieces, 1)
    alone = tfcert.bound(small_model(), x, region, "crown")
    np.testing.assert_allclose(found.lower, alone.lower, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.upper, alone.upper, rtol=1e-5, atol=1e-6)
    # Another computation does not take it, and the next such call compiles.
    margins = tfcert.bound_margins(model, x, y, region, "crown")
    assert margins.shape[0] == count and program.calls == 2 + pieces
    tfcert.bound(model, x, region, "crown")
    assert program.calls == 2 + pieces
    assert sorted(p.traces for p in programs_of(model)) == [0, 1, 1]


def test_pieces_that_fit_into_memory_use_what_is_compiled(monkeypatch):
    model, program = compiled_for(1, tfcert.LpBall(0.1))
    monkeypatch.setattr(tfcert.methods.Crown, "samples_at_once", lambda *_: 3)
    tfcert.bound(model, data(model, 4)[0], tfcert.LpBall(0.1), "crown")
    assert program.calls == 6 and len(programs_of(model)) == 1


def test_a_first_call_that_would_compile_uses_what_is_compiled(monkeypatch):
    model, program = compiled_for(1, tfcert.LpBall(0.1))
    monkeypatch.setattr(tfcert.methods.Crown, "first_call_at_once", lambda *_: False)
    x = data(model, 4)[0]
    tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
    assert program.calls == 6 and sorted(p.traces for p in programs_of(model)) == [0, 1]
    # The second such call has a program of its own.
    tfcert.bound(model, x, tfcert.LpBall(0.1), "crown")
    assert program.calls == 6 and sorted(p.traces for p in programs_of(model)) == [1, 1]


@pytest.mark.parametrize("compiled, count", [(1, 9), (5, 1)])
def test_a_compiled_program_is_not_used_at_any_price(compiled, count):
    model, program = compiled_for(compiled, tfcert.LpBall(0.1))
    tfcert.bound(model, data(model, count)[0], tfcert.LpBall(0.1), "crown")
    assert program.calls == 2


def test_programs_go_when_the_model_changes():
    model = small_model()
    x, _ = data(model)
    tfcert.bound(model, x, tfcert.LpBall(0.1), "ibp")
    before = programs_of(model)
    model.layers[0].set_weights([2.0 * w for w in model.layers[0].get_weights()])
    assert programs_of(model) is before
    model.layers[0].activation = keras.activations.tanh
    assert programs_of(model) is not before and len(programs_of(model)) == 0


class Numbered(tfcert.LpBall):
    """A ball with a number that no program may keep."""


@pytest.mark.parametrize("calls", [1, 2])
def test_nothing_of_a_call_outlives_it(calls):
    model = small_model(50)
    held = []

    def call():
        for _ in range(calls):
            x, y = data(model, 3)
            x, labels = (ops.convert_to_tensor(value) for value in (x, y))
            rows = ops.convert_to_tensor(np.eye(3, dtype="float32"))
            region = Numbered(np.full(50, 0.01))
            tfcert.bound(model, x, region, "crown")
            tfcert.bound_margins(model, x, labels, region, "crown-ibp")
            tfcert.bound_margins(model, x, None, region, "ibp", specification=rows)
            tfcert.bounds.least_margins(model, x, labels, region, "ibp")
            PGD(region, 2)(model, x, labels)
            held.extend(weakref.ref(value) for value in (x, labels, rows, region, region._eps))

    call()
    gc.collect()
    assert len(programs_of(model)) == 5
    assert [reference() is None for reference in held] == [True] * len(held)


@pytest.mark.parametrize("attack", [PGD, APGD, FGSM])
def test_an_attack_is_one_program_for_all_sizes(attack):
    model = small_model()
    x, y = data(model)
    found = {}
    for eps in np.linspace(0.0, 0.5, 20):
        for clip in ((0.0, 1.0), (-1.0, 2.0)):
            region = tfcert.LpBall(eps, clip=clip)
            points = ops.convert_to_numpy(attack(region)(model, x, y, seed=3))
            assert region.contains(points, x).all()
            found[eps, clip] = points
    (program,) = programs_of(model)
    assert (program.kind, program.calls, program.traces) == ("attack", 40, 1)
    # As a model finds them whose program was made for this very size.
    for eps, clip in ((0.5, (0.0, 1.0)), (0.5, (-1.0, 2.0))):
        fresh = small_model()
        region = tfcert.LpBall(eps, clip=clip)
        points = ops.convert_to_numpy(attack(region)(fresh, x, y, seed=3))
        np.testing.assert_array_equal(points, found[eps, clip])


@pytest.mark.parametrize("each", [False, True])
def test_batches_of_a_certification_share_their_programs(each):
    model = small_model()
    x, _ = data(model, 23)
    y = np.argmax(ops.convert_to_numpy(model(x)), axis=1)
    region = tfcert.LpBall(0.05)
    if each:
        region = region.with_eps(np.linspace(0.01, 0.05, 23))
    chain = ["ibp", "crown"]
    tfcert.certify(model, x, y, region, chain, batch_size=5, self_check=0.0)
    kinds = [program.kind for program in programs_of(model)]
    assert kinds.count("attack") == kinds.count("predict") == 1
    assert kinds.count("least") <= 2
    assert all(program.traces == 1 for program in programs_of(model))


def test_programs_are_found_by_structure_too():
    kept, model = Programs(small_model()), small_model()

    def make():
        return lambda first, second: ops.add(first, second or 0.0)

    one = kept.get(model, "test", None, make, (ops.ones(2), None))
    assert kept.get(model, "test", None, make, (ops.zeros(2), None)) is one
    assert kept.get(model, "test", None, make, (ops.ones(3), None)) is not one
    assert kept.get(model, "other", None, make, (ops.ones(2), None)) is not one


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses tf.GradientTape")
def test_later_calls_have_gradients_and_see_new_weights():
    import tensorflow as tf

    model, region = small_model(), tfcert.LpBall(0.1)
    x = tf.constant(data(model)[0])
    found = []
    for _ in range(4):
        with tf.GradientTape() as tape:
            tape.watch(x)
            lower = tfcert.bound(model, x, region, "ibp").lower
            total = tf.reduce_sum(lower)
        found.append(tape.gradient(total, [x, model.layers[0].kernel.value]))
    for gradients in found:
        for one, first in zip(gradients, found[0], strict=True):
            np.testing.assert_allclose(one, first, rtol=1e-4, atol=1e-5)
    before = ops.convert_to_numpy(tfcert.bound(model, x, region, "ibp").lower)
    model.layers[-1].bias.assign_add([1.0, 2.0, 3.0])
    after = ops.convert_to_numpy(tfcert.bound(model, x, region, "ibp").lower)
    np.testing.assert_allclose(after, before + [1.0, 2.0, 3.0], rtol=1e-5, atol=1e-5)


def test_what_a_program_is_called_with_may_be_nested_and_lack_parts():
    model = small_model()

    def function(first, rest):
        third = rest["third"]
        return {"sum": first + rest["second"] + (0.0 if third is None else third), "first": first}

    call = backend.compile_for_one_form(function, model)
    for shift in (0.0, 1.0, 2.0):  # An array of NumPy, and a number that changes.
        one = ops.convert_to_tensor(np.array([1.0, 2.0], "float32"))
        found = call(one, {"third": None, "second": np.array(shift, "float32")})
        np.testing.assert_allclose(found["sum"], [1.0 + shift, 2.0 + shift])
        np.testing.assert_allclose(found["first"], [1.0, 2.0])


@pytest.mark.parametrize("most", [3, 30])
@pytest.mark.parametrize("limit", [20.0, 1e30])
def test_a_long_loop_is_a_loop(most, limit):
    turns = []

    def body(step, value):
        turns.append(step)
        return step + 1, 2.0 * value + ops.cast(step, "float32")

    def goes_on(step, value):
        return ops.sum(value) < limit

    start = ops.convert_to_tensor(0, "int32"), ops.convert_to_tensor([1.0, 0.5])
    expected = backend.loop(goes_on, body, start, most)
    count = len(turns)
    found = backend.long_loop(goes_on, body, start, most)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert (int(found[0]) < most) == (limit == 20.0 and most == 30)
    if keras.backend.backend() == "tensorflow":  # Of many turns, one is traced.
        assert len(turns) - count == (3 if most == 3 else 1)
