"""The demo's computation: a plain and a certified network, attacked and verified side by side."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

import tfcert
from tfcert import certification, datasets, provenance
from tfcert.cli.demo_config import Config
from tfcert.types import MethodName

__all__ = ["METHODS", "Config", "Example", "Network", "Results", "build_model", "run"]

# From the cheapest and loosest to the dearest and tightest.
METHODS: tuple[MethodName, ...] = ("ibp", "crown-ibp", "crown", "alpha-crown")

_PIXELS = (0.0, 1.0)
_BATCH = 32
_RATE = 3e-3
_EXAMPLES = 3  # on the page


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network with the verdicts on the chosen images.

    Attributes:
        name: "plain" or "certified".
        training_seconds: How long its training took.
        results: What ``tfcert.certify`` found, by size of the changes, from small to large.
    """

    name: str
    training_seconds: float
    results: dict[float, certification.Certificates]

    @property
    def accuracy(self) -> float:
        """The share of unchanged images that it classifies right."""
        return next(iter(self.results.values())).accuracy

    def attacked(self) -> list[float]:
        """For each size, the share of images that an attack has left."""
        return [found.attacked_accuracy for found in self.results.values()]

    def verified(self, method: str = METHODS[-1]) -> list[float]:
        """For each size, the share of images that this method or a cheaper one verifies."""
        upto = METHODS[: METHODS.index(method) + 1]
        return [
            float(np.mean((found.verdict == "verified") & np.isin(found.method, upto)))
            for found in self.results.values()
        ]


@dataclasses.dataclass(frozen=True)
class Example:
    """An image that the plain network can be made to get wrong, and the certified one cannot.

    Attributes:
        label: The digit.
        image: As it is.
        fooling: The image, changed within eps, that the plain network gets wrong.
        mistaken: The plain network's class of it.
        hardest: The image, changed within eps, on which an attack leaves the certified network
            the smallest lead.
        lead: That lead, the score of the right class minus the next one.
        proved: A lower bound of this lead for all images within eps.
    """

    label: int
    image: np.ndarray
    fooling: np.ndarray
    mistaken: int
    hardest: np.ndarray
    lead: float
    proved: float


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of the demo."""

    config: Config
    parameters: int
    plain: Network
    certified: Network
    examples: list[Example]
    first: np.ndarray  # one of the images, for want of an example

    @property
    def networks(self) -> tuple[Network, Network]:
        """The plain and the certified network."""
        return self.plain, self.certified

    def facts(self) -> dict[str, Any]:
        """All numbers, and what is needed to repeat the run, as plain Python values."""
        return {
            "flags": dataclasses.asdict(self.config),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "commit": provenance.commit(),
            "parameters": self.parameters,
            "eps": self.config.sizes,
            "networks": {
                network.name: {
                    "training_seconds": round(network.training_seconds, 3),
                    "accuracy": network.accuracy,
                    "attacked_accuracy": network.attacked(),
                    "verified_accuracy": {method: network.verified(method) for method in METHODS},
                }
                for network in self.networks
            },
        }


def build_model() -> keras.Model:
    """A plain Keras classifier of 8x8 images that gives 10 logits."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


def run(config: Config, log: Callable[[str], None]) -> Results:
    """Trains and certifies both networks; `log` gets a line whenever a part is done."""
    train, (x_test, y_test) = datasets.load("digits")
    # The file keeps the order in which people wrote; a fixed choice mixes them.
    chosen = np.random.default_rng(0).permutation(len(x_test))[: config.examples]
    x, y = x_test[chosen], y_test[chosen]
    models, networks = {}, {}
    for name, fit in (("plain", _fit_plain), ("certified", _fit_certified)):
        # Both start from the same weights and see the images in the same order.
        keras.utils.set_random_seed(config.seed)
        models[name] = build_model()
        log(f"Training the {name} network for {config.epochs} epochs ...")
        begin = time.perf_counter()
        fit(models[name], *train, config)
        seconds = time.perf_counter() - begin
        log(f"  {seconds:.1f} s. Attacking and verifying {len(x)} images ...")
        results = {}
        for eps in config.sizes:
            region = tfcert.LpBall(eps, clip=_PIXELS)
            found = tfcert.certify(models[name], x, y, region, method=METHODS, verbose=0)
            results[eps] = found
            log(
                f"  eps {eps:g}: {found.attacked_accuracy:.1%} withstand the attack, "
                f"{found.verified_accuracy:.1%} are verified."
            )
        networks[name] = Network(name, seconds, results)
    return Results(
        config=config,
        parameters=models["plain"].count_params(),
        plain=networks["plain"],
        certified=networks["certified"],
        examples=_examples(models, networks, x, config),
        first=x[0],
    )


def _fit_plain(model: keras.Model, x: np.ndarray, y: np.ndarray, config: Config) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_RATE), loss)
    model.fit(x, y, batch_size=_BATCH, epochs=config.epochs, verbose=0)


def _fit_certified(model: keras.Model, x: np.ndarray, y: np.ndarray, config: Config) -> None:
    region = tfcert.LpBall(config.train_eps, clip=_PIXELS)
    objective = tfcert.objectives.IBP(region, ramp=(0, config.epochs / 2))
    # Verified accuracy is measured afterwards, not in training.
    trainer = tfcert.CertifiedTrainer(model, objective, verified_share=0.0)
    trainer.compile(keras.optimizers.Adam(_RATE))
    trainer.fit(x, y, batch_size=_BATCH, epochs=config.epochs, verbose=0)


def _examples(
    models: dict[str, keras.Model], networks: dict[str, Network], x: np.ndarray, config: Config
) -> list[Example]:
    """Images of different digits that are broken for one network and verified for the other."""
    broken, safe = (networks[name].results[config.train_eps] for name in ("plain", "certified"))
    both = np.flatnonzero((broken.verdict == "falsified") & (safe.verdict == "verified"))
    # The surest proofs first, one of each digit.
    order = both[np.argsort(-safe.margin[both], kind="stable")]
    _, first = np.unique(safe.label[order], return_index=True)
    places = order[np.sort(first)][:_EXAMPLES]
    if not len(places):
        return []
    region = tfcert.LpBall(config.train_eps, clip=_PIXELS)
    attack = tfcert.attacks.APGD(region, loss="margin", early_stop=False)
    hardest = attack.worst_points(models["certified"], x[places], safe.label[places])
    fooling = np.stack([broken.counterexamples[place] for place in places.tolist()])
    mistaken = np.argmax(np.asarray(models["plain"](fooling)), axis=-1)
    return [
        Example(
            label=int(safe.label[place]),
            image=x[place],
            fooling=fooling[row],
            mistaken=int(mistaken[row]),
            hardest=np.asarray(hardest.points)[row],
            lead=-float(hardest.margins[row]),  # An attack's margin is the wrong class's.
            proved=float(safe.margin[place]),
        )
        for row, place in enumerate(places)
    ]
