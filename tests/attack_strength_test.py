"""Attacks: as strong as plain loops, and strong enough for known counterexamples."""

import itertools

import keras
import numpy as np
import pytest
from absl.testing import parameterized
from keras import ops

from tests import attack_support as support
from tests import vnncomp_support
from tfcert import attacks, interchange, regions
from tfcert.attacks import inputs
from tfcert.interchange import properties

EPS = {"inf": 0.1, 2: 0.6, 1: 2.5}  # on digits, about equally strong

# Instances with a counterexample that an attack may miss: 50 steps from STARTS, on the margin.
STARTS = {"acasxu": 64}  # elsewhere 8
HARD = {
    attacks.PGD: {"mnist-net_256x2/prop_4_0.05"},
    attacks.APGD: set(),
}


class StrengthTest(parameterized.TestCase):
    @parameterized.parameters("inf", 2)
    def test_pgd_walks_as_the_plain_loop_does(self, norm):
        model, x, y = support.digits()
        # With norm 2 and a clip range, coordinates at their limit get no share of our step.
        clip = (0, 1) if norm == "inf" else (-9, 9)
        region = regions.LpBall(EPS[norm], norm, clip)
        for momentum in (0.0, 0.9):
            # Few steps: rounding decides the sign of gradients that are nearly 0.
            expected, _ = support.plain(model, x, x, y, EPS[norm], norm, 3, 0.3, momentum, clip)
            attack = attacks.PGD(region, 3, 0.3, momentum=momentum, random_start=False)
            ends = attack.last_point(model, *map(ops.convert_to_tensor, (x, y)), seed=None)
            close = np.isclose(support.array(ends), expected, atol=1e-5).all(axis=(1, 2, 3)).mean()
            self.assertGreater(close, 0.95)

    @pytest.mark.slow
    def test_at_least_as_strong_as_the_plain_loop(self):
        self.check_strength(2)

    @pytest.mark.slow
    def test_at_least_as_strong_as_the_plain_loop_in_a_cube(self):
        self.check_strength("inf")

    def check_strength(self, norm):
        model, x, y = support.digits()
        region = regions.LpBall(EPS[norm], norm, clip=(0, 1))
        seed = ops.convert_to_tensor(np.array([0, 0], "int32"))  # That of the first random start.
        start = support.array(region.sample(x, 1, seed))[:, 0]
        _, met = support.plain(model, x, x, y, EPS[norm], norm, 20, 0.125)
        still = int((~met).sum())
        attack = attacks.PGD(region, 20, random_start=False)
        self.assertLessEqual(support.survivors(model, attack(model, x, y), y), still)
        _, met = support.plain(model, start, x, y, EPS[norm], norm, 20, 0.125)
        left = int((~met).sum())
        self.assertBetween(left, 20, 100)
        for attack in (
            attacks.PGD(region, 20),
            attacks.PGD(region, 20, loss="margin"),
            attacks.PGD(region, 20, loss="logits_ratio"),
            attacks.APGD(region, 20),
            attacks.APGD(region, 20, loss="margin"),
            attacks.APGD(region, 20, loss="logits_ratio"),
        ):
            self.assertLessEqual(support.survivors(model, attack(model, x, y), y), left, attack)
        _, met = support.plain(model, x, x, y, EPS[norm], norm, 1, 1.0)
        found = support.survivors(model, attacks.FGSM(region)(model, x, y), y)
        self.assertLessEqual(found, int((~met).sum()))

    def test_norm_1(self):
        model, x, y = support.digits()
        region = regions.LpBall(EPS[1], 1, clip=(0, 1))
        single = support.survivors(model, attacks.FGSM(region)(model, x, y), y)
        many = support.survivors(model, attacks.PGD(region, 40)(model, x, y), y)
        own = support.survivors(model, attacks.APGD(region, 40)(model, x, y), y)
        self.assertLess(many, 0.7 * single)
        self.assertLess(own, 0.7 * single)

    def test_fgsm_is_its_formula(self):
        model, x, y = support.digits()

        def loss(points):
            return ops.sum(ops.sparse_categorical_crossentropy(y, model(points), from_logits=True))

        expected = np.clip(x + 0.1 * np.sign(support.gradient(loss, x)), 0, 1)
        found = support.array(attacks.FGSM(regions.LpBall(0.1, clip=(0, 1)))(model, x, y))
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_models_that_are_very_sure(self):
        # Cross-entropy has no gradient left in float32; the other losses do not mind the scale,
        # and a softmax is looked behind.
        model, x, y = support.digits()
        region = regions.LpBall(0.1, clip=(0, 1))
        sure = support.behind(model, keras.layers.Rescaling(1e4))
        usual = support.survivors(model, attacks.PGD(region, 20, loss="margin")(model, x, y), y)
        for loss, least, most in (
            ("cross_entropy", usual + 20, len(x)),
            ("margin", usual, usual),
            ("logits_ratio", usual - 2, usual + 2),
        ):
            left = support.survivors(model, attacks.PGD(region, 20, loss=loss)(sure, x, y), y)
            self.assertBetween(left, least, most, loss)
        soft = support.behind(model, keras.layers.Rescaling(12.0), keras.layers.Softmax())
        logits = support.array(12.0 * model(x))
        undone = support.array(inputs.scores_of(soft)(x))
        undone, logits = undone - undone.max(axis=1)[:, None], logits - logits.max(axis=1)[:, None]
        np.testing.assert_allclose(*(np.maximum(s, -80) for s in (undone, logits)), atol=0.01)
        left = support.survivors(model, attacks.PGD(region, 20, loss="margin")(soft, x, y), y)
        self.assertBetween(left, usual - 1, usual + 1)


class CounterexampleTest(parameterized.TestCase):
    @parameterized.parameters("mnist_fc", "oval21")
    def test_known_counterexamples_are_found_and_no_others(self, benchmark):
        self.check_benchmark(benchmark)

    @parameterized.parameters("acasxu", "sri_resnet_a", "cifar10_resnet")
    @pytest.mark.slow
    def test_those_of_more_networks_are_found_and_no_others(self, benchmark):
        self.check_benchmark(benchmark)

    def check_benchmark(self, benchmark):
        instances = vnncomp_support.instances(benchmark)
        # Known is where one exists: what float32 finds has to be one in float64 too.
        self.assertIn("unsat", {instance.verdict for instance in instances})
        # Where properties are no classification, every one is a model of its own.
        alone = benchmark == "acasxu"
        for _, group in itertools.groupby(instances, lambda i: i if alone else i.network):
            self.check(list(group))

    def check(self, instances):
        path = instances[0].network
        model, wide = (interchange.load_onnx(path, d) for d in ("float32", "float64"))
        asked = [interchange.read_vnnlib(instance.property) for instance in instances]
        classifiers, labels = zip(
            *[properties.attacked(model, list(one.cases)) for one in asked], strict=True
        )
        classifier = classifiers[0]  # Shared by properties about classes.
        starts = STARTS.get(instances[0].benchmark, 8)
        region, x = vnncomp_support.region(asked, model.input_shape[1:], starts)
        for kind, hard in HARD.items():
            attack = kind(region, 50, loss="margin", early_stop=False)
            points = np.asarray(
                ops.convert_to_numpy(attack(classifier, x, np.repeat(labels, starts)))
            )
            for instance, one, own in zip(
                instances, asked, np.split(points, len(asked)), strict=True
            ):
                found = one.is_met(own, ops.convert_to_numpy(wide(own.astype("float64")))).any()
                if instance.verdict == "unsat":
                    self.assertFalse(found, instance.name)
                elif instance.verdict == "sat" and instance.name not in hard:
                    self.assertTrue(found, (kind, instance.name))
