"""Tests of how models are walked, and of what that relies on inside of Keras."""

import re

import keras
import numpy as np
from absl.testing import absltest
from keras import layers, ops

from tests import soundness, support
from tfcert import graph, network


def walked(model):
    """Names of the operations in the order of their calls."""
    names = []

    def visit(operation, args, kwargs, outputs):
        names.append(operation.name)
        return [None] * len(outputs)

    graph.interpret(model, [None] * len(keras.tree.flatten(graph.inputs_of(model))), visit)
    return names


def run(model, *inputs):
    """The outputs of a model, computed call by call."""

    def visit(operation, args, kwargs, outputs):
        return operation(*args, **{k: v for k, v in kwargs.items() if v is not None})

    return graph.interpret(model, [ops.convert_to_tensor(x) for x in inputs], visit)


def dense(units, name):
    return layers.Dense(units, name=name)


class KerasInternalsTest(absltest.TestCase):
    """What graph.py reads of Keras: should one of these fail, Keras has changed it."""

    def test_nodes(self):
        entry = keras.Input((4,), name="entry")
        first = dense(3, "first")
        hidden = first(entry)
        model = keras.Model(entry, {"out": hidden + 1.0})
        depths = model._nodes_by_depth
        self.assertEqual(sorted(depths), [0, 1, 2])
        ((start,), (middle,), (last,)) = (depths[depth] for depth in (2, 1, 0))
        self.assertTrue(start.is_input)
        self.assertFalse(middle.is_input)
        self.assertIs(middle.operation, first)
        self.assertIs(middle.input_tensors[0], model.inputs[0])
        self.assertIs(middle.arguments.args[0], model.inputs[0])
        self.assertIs(middle.outputs[0], hidden)
        self.assertEqual(type(last.operation).__name__, "Add")
        self.assertEqual(last.arguments.args[1], 1.0)
        self.assertEqual(list(model._outputs_struct), ["out"])
        self.assertIs(model._outputs_struct["out"], last.outputs[0])

    def test_shared_layers_have_a_node_for_each_call(self):
        entry, layer = keras.Input((4,)), dense(4, "shared")
        model = keras.Model(entry, layer(layer(entry)))
        nodes = [node for at_depth in model._nodes_by_depth.values() for node in at_depth]
        self.assertLen([node for node in nodes if node.operation is layer], 2)

    def test_calls_outside_of_the_model_are_no_part_of_it(self):
        layer = dense(3, "elsewhere_too")
        entry = keras.Input((4,))
        model = keras.Model(entry, layer(entry))
        layer(keras.Input((4,)))
        self.assertEqual(walked(model), ["elsewhere_too"])

    def test_sequential_models_keep_a_functional_one(self):
        model = keras.Sequential([keras.Input((4,)), dense(3, "only")])
        self.assertIs(model._functional.call.__func__, keras.Model(*_identity()).call.__func__)
        self.assertTrue(model.built)
        self.assertIsNone(keras.Sequential([dense(3, "unbuilt")])._functional)

    def test_arguments_of_calls(self):
        entry = keras.Input((4,))
        model = keras.Model(entry, layers.Dropout(0.5)(entry, training=True))
        (call,) = model._nodes_by_depth[0]
        self.assertIs(call.arguments.kwargs["training"], True)
        entry = keras.Input((4, 4, 1))
        model = keras.Model(entry, layers.RandomFlip()(entry))
        (call,) = model._nodes_by_depth[0]
        # The default is noted like a wish of the user's: tfcert.graph tells them apart.
        self.assertIs(call.arguments.kwargs["training"], True)

    def test_layers_of_nested_models(self):
        inner = keras.Sequential([keras.Input((4,)), dense(4, "deep")])
        entry = keras.Input((4,))
        model = keras.Model(entry, dense(2, "top")(inner(entry)))
        names = [layer.name for layer in model._flatten_layers(include_self=False)]
        self.assertContainsSubset(["deep", "top", inner.name], names)

    def test_operations_keep_their_arguments(self):
        entry = keras.Input((4, 2))
        for apply, fields in (
            (lambda x: ops.sum(x, axis=1, keepdims=True), {"axis": [1], "keepdims": True}),
            (lambda x: ops.max(x, axis=1, initial=2.0), {"initial": 2.0}),
            (lambda x: ops.reshape(x, (-1, 8)), {"newshape": (-1, 8)}),
            (lambda x: ops.transpose(x, (0, 2, 1)), {"axes": (0, 2, 1)}),
            (lambda x: ops.clip(x, 0.0, 1.0), {"x_min": 0.0, "x_max": 1.0}),
            (lambda x: ops.leaky_relu(x, 0.3), {"negative_slope": 0.3}),
            (lambda x: ops.einsum("bij->bji", x), {"subscripts": "bij->bji"}),
        ):
            operation = graph.origin(apply(entry)).operation
            for name, value in fields.items():
                self.assertEqual(getattr(operation, name), value)

    def test_parts_of_attention(self):
        entry = keras.Input((5, 6))
        layer = keras.layers.MultiHeadAttention(2, 3, sliding_window=2)
        layer(entry, entry)
        parts = graph.attention_parts(layer)
        self.assertEqual((parts.dot, parts.combine), ("aecd,abcd->acbe", "acbe,aecd->abcd"))
        self.assertEqual((parts.axes, parts.window, parts.repeats), ((1,), 2, 1))
        self.assertIs(parts.query, layer.query_dense)
        self.assertAlmostEqual(parts.scale, 3**-0.5)
        self.assertIsNone(parts.gate)
        layer = keras.layers.GroupQueryAttention(3, 4, 2, use_gate=True)
        layer(entry, entry)
        parts = graph.attention_parts(layer)
        self.assertEqual((parts.dot, parts.combine), ("bquh,bkuh->buqk", "buqk,bkuh->bquh"))
        self.assertEqual((parts.axes, parts.window, parts.repeats), ((1,), None, 2))
        self.assertEqual(parts.gate.activation, keras.activations.sigmoid)

    def test_tensors_know_the_call_that_made_them(self):
        shared = dense(4, "shared")
        entry = keras.Input((4,))
        once = shared(entry)
        twice = shared(once)
        self.assertIs(graph.origin(once).inputs[0], entry)
        self.assertIs(graph.origin(twice).operation, shared)
        self.assertIs(graph.origin(twice).inputs[0], once)
        parts = ops.split(twice, 2, axis=1)
        self.assertEqual([graph.origin(part).place for part in parts], [0, 1])

    def test_the_inputs_of_nested_models_have_the_order_of_the_model(self):
        first, second = keras.Input((4,), name="z"), keras.Input((4,), name="a")
        inner = keras.Model([first, second], first - 2.0 * second)
        left, right = keras.Input((4,)), keras.Input((4,))
        found = graph.origin(inner({"a": right, "z": left}))
        self.assertIs(found.operation, inner)
        self.assertIs(found.inputs[0], left)
        self.assertIs(found.inputs[1], right)

    def test_layers(self):
        inner = keras.Sequential([keras.Input((4,)), dense(4, "deep")])
        model = keras.Sequential([keras.Input((4,)), inner, dense(2, "top")])
        found = graph.layers_of(model)
        self.assertContainsSubset(["deep", "top", inner.name], [layer.name for layer in found])
        self.assertNotIn(model, found)

    def test_generators_of_random_numbers(self):
        inner = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5), layers.GaussianNoise(1)])
        model = keras.Sequential([keras.Input((4,)), inner, dense(2, "no_noise")])
        self.assertCountEqual(
            graph.seed_generators(model), [layer.seed_generator for layer in inner.layers]
        )

    def test_classes_of_keras(self):
        operation = graph.origin(ops.relu(keras.Input((4,)))).operation
        self.assertTrue(graph.is_operation_of_keras(type(operation)))
        self.assertFalse(graph.is_operation_of_keras(layers.ReLU))
        for part in (layers.ReLU, type(operation), keras.activations.relu, ops.relu):
            self.assertTrue(graph.is_written_by_keras(part), part)
        self.assertFalse(graph.is_written_by_keras(type(self)))
        self.assertFalse(graph.is_written_by_keras(None))

    def test_the_loss_and_the_first_epoch_of_training(self):
        model = keras.Sequential([keras.Input((4,)), dense(2, "only")])
        model.compile("sgd", "mse")
        seen = []

        class Later(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                graph.start_at_epoch(self.model, 3)

            def on_epoch_begin(self, epoch, logs=None):
                seen.append(epoch)

        x, y = np.zeros((2, 4)), np.ones((2, 2))
        history = model.fit(x, y, epochs=5, verbose=0, callbacks=[Later()]).history
        self.assertEqual(seen, [3, 4])
        self.assertEqual(float(graph.loss_tracker(model).result()), history["loss"][-1])

    def test_nothing_else_uses_what_is_private(self):
        private = re.compile(
            r"\b(_flatten_layers|_functional|_inbound_nodes|_initial_epoch|_keras_history"
            r"|_loss_tracker|_nodes_by_depth|_outbound_nodes|_seed_generators)\b|keras\.src"
        )
        folder = support.ROOT / "tfcert"
        found = {
            path.relative_to(folder).as_posix()
            for path in folder.glob("**/*.py")
            if private.search(path.read_text(encoding="utf-8"))
        }
        known = {"graph/layer_parts.py", "graph/walk.py", "backend/shared.py"}
        self.assertEqual(found, known)


def _identity():
    entry = keras.Input((1,))
    return entry, entry


class InterpretTest(absltest.TestCase):
    def test_order_of_a_branching_graph(self):
        entry = keras.Input((4,))
        left, right = dense(3, "left")(entry), dense(3, "right")(entry)
        both = layers.Add(name="both")([left, right])
        names = walked(keras.Model(entry, dense(2, "last")(both)))
        self.assertCountEqual(names, ["left", "right", "both", "last"])
        self.assertEqual(names[2:], ["both", "last"])

    def test_unused_branches_are_not_walked(self):
        entry = keras.Input((4,))
        hidden = dense(3, "hidden")(entry)
        dense(5, "unused")(hidden)
        self.assertEqual(walked(keras.Model(entry, hidden)), ["hidden"])

    def test_models_cut_out_of_others(self):
        entry = keras.Input((4,))
        first = dense(3, "first")(entry)
        second = dense(2, "second")(first)
        keras.Model(entry, second)
        self.assertEqual(walked(keras.Model(first, second)), ["second"])

    def test_nested_models_are_entered_at_every_call(self):
        inner = keras.Sequential([keras.Input((4,)), dense(4, "a"), dense(4, "b")])
        entry = keras.Input((4,))
        model = keras.Model(entry, dense(1, "last")(inner(inner(entry))))
        self.assertEqual(walked(model), ["a", "b", "a", "b", "last"])

    def test_outputs_keep_their_structure(self):
        entry = keras.Input((4,))
        hidden = dense(3, "hidden")(entry)
        model = keras.Model(entry, {"x": entry, "both": [hidden, hidden + 1.0]})
        x = np.ones((2, 4), "float32")
        found = run(model, x)
        self.assertEqual(list(found), ["x", "both"])
        for ours, theirs in zip(soundness.flat(found), soundness.flat(model(x)), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_nested_models_of_several_inputs(self):
        # Keras matches a dict to a list of inputs by their names, and a dict to a dict by its keys.
        x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
        for structure in (list, dict):
            first, second = keras.Input((4,), name="z"), keras.Input((4,), name="a")
            inputs = [first, second] if structure is list else {"z": first, "a": second}
            inner = keras.Model(inputs, first - 2.0 * second)
            entry = keras.Input((4,))
            for call in (
                lambda t, inner=inner: inner({"z": t, "a": ops.square(t)}),
                lambda t, inner=inner: inner({"a": ops.square(t), "z": t}),
            ):
                model = keras.Model(entry, call(entry))
                np.testing.assert_allclose(
                    soundness.flat(run(model, x))[0], soundness.flat(model(x))[0], rtol=1e-6
                )
                np.testing.assert_allclose(soundness.flat(model(x))[0], x - 2 * x**2, rtol=1e-5)

    def test_nested_models_called_by_keyword(self):
        inner = keras.Sequential([keras.Input((4,)), dense(2, "inner_dense")])
        entry = keras.Input((4,))
        self.assertEqual(walked(keras.Model(entry, inner(inputs=entry))), ["inner_dense"])


class NetworkTest(absltest.TestCase):
    def test_nodes_follow_their_inputs(self):
        entry = keras.Input((4,))
        x = dense(4, "a")(entry)
        x = layers.Softmax(name="s")(x + dense(4, "b")(layers.ReLU(name="r")(x)))
        net = network.Network(keras.Model(entry, x))
        for node in net.nodes:
            for source in node.inputs:
                self.assertLess(net.index[source], net.index[node])
        self.assertIs(net.nodes[0], net.input)
        self.assertLen(set(net.nodes), len(net.nodes))

    def test_nodes_bear_the_names_of_their_layers(self):
        entry = keras.Input((4, 4, 1), name="entry")
        x = layers.Conv2D(2, 2, activation="relu", name="conv")(entry)
        x = layers.Softmax(name="soft")(layers.Flatten(name="flat")(x))
        net = network.Network(keras.Model(entry, x))
        self.assertEqual({node.name for node in net.nodes}, {"entry", "conv", "flat", "soft"})

    def test_one_network_for_a_model(self):
        model = keras.Sequential([keras.Input((4,)), dense(3, "d")])
        self.assertIs(network.network_of(model), network.network_of(model))
        before = network.network_of(model)
        model(np.zeros((1, 4)))
        model.compile("sgd", "mse")
        model.fit(np.zeros((2, 4)), np.zeros((2, 3)), verbose=0)
        self.assertIs(network.network_of(model), before)

    def test_a_constant_output(self):
        entry = keras.Input((4,))
        net = network.Network(keras.Model(entry, 0.0 * entry))
        self.assertIn(net.input, net.nodes)


if __name__ == "__main__":
    absltest.main()
