"""``certify_set``: smoothing of a whole data set, with a log that survives a kill."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tfcert import backend, checks, logs, provenance
from tfcert.runs import identity, progress
from tfcert.smoothing import noise, precision, sequential
from tfcert.smoothing.classifier import SmoothedClassifier, checked_adaptive, checked_places
from tfcert.types import ArrayLike, PathLike

__all__ = ["SmoothedResult", "certify_set"]

# Samples of inputs that are certified together, where one input needs fewer.
_TOGETHER = 10_000


@dataclasses.dataclass(frozen=True, repr=False)
class SmoothedResult:
    """Result of `certify_set`, one entry per input, in the order of the inputs.

    Attributes:
        prediction: The certified class; -1 if the classifier abstains. int64.
        radius: The certified radius, in the norm and the units of the noise: every closer input
            gets the same class. 0 if the classifier abstains. float64.
        label: The right class.
        index: The position of each input in its data set, as in the log.
        seconds: Time spent on the input, as an equal share of each batch.
        settings: The noise and the samples behind the certificates.
    """

    prediction: np.ndarray
    radius: np.ndarray
    label: np.ndarray
    index: np.ndarray
    seconds: np.ndarray
    settings: Mapping[str, Any]

    @property
    def correct(self) -> np.ndarray:
        """Returns for each input whether the certified class is right."""
        return self.prediction == self.label

    @property
    def abstained(self) -> float:
        """The share of inputs on which the classifier abstains."""
        return float(np.mean(self.prediction == -1))

    @property
    def mean_radius(self) -> float:
        """The average certified radius, where a wrong class counts as 0."""
        return float(np.mean(self.radius * self.correct))

    def certified_accuracy(self, radius: float = 0.0) -> float:
        """Returns the share of inputs with the right class and a radius beyond a given one."""
        return float(np.mean(self.correct & (self.radius > radius)))

    def __len__(self) -> int:
        return len(self.label)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {len(self)} inputs: {self.certified_accuracy():.1%} "
            f"certified, average radius {self.mean_radius:.4g}>"
        )

    def summary(self) -> str:
        """Returns the result as text: abstentions, the average radius and certified accuracies."""
        kind, width = self.settings["noise"], self.settings["sigma"]
        lines = [
            f"{len(self.label)} inputs, {kind} noise of width {width:g}, "
            f"at most {self.settings['n']} samples, alpha {self.settings['alpha']:g}",
            f"  abstained                 {self.abstained:8.2%}",
            f"  average certified radius  {self.mean_radius:8.4f}",
        ]
        # Multiples of the width that a radius can reach.
        for r in width * np.arange(0.0, self.radius.max() / width, 0.5):
            lines.append(f"  certified beyond {r:<8.4g} {self.certified_accuracy(r):8.2%}")
        return "\n".join(lines)


def certify_set(
    smoothed: SmoothedClassifier,
    x: ArrayLike,
    y: ArrayLike,
    log: PathLike | None = None,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    adaptive: bool | sequential.Adaptive = False,
    seed: int = 0,
    index: ArrayLike = 0,
    facts: Mapping[str, Any] | None = None,
    verbose: progress.Verbose = "auto",
) -> SmoothedResult:
    """Certifies labelled inputs by smoothing, and writes a log with one line per input.

    The certificates equal those of ``smoothed.certify`` on the same inputs.

    Args:
        smoothed: The classifier.
        x: Inputs, ``(inputs, *input_shape)``.
        y: Integer labels, ``(inputs,)``.
        log: A file that receives one line per input as soon as the input is certified. To resume a
            run that was stopped or killed, repeat the call. `certify_set` refuses a log of other
            arguments, another model or other data. ``tfcert.logs`` reads the file.
        n0: Number of samples for the choice of each input's class.
        n: Number of samples for the bound of each input.
        alpha: The probability for each input that its certificate is wrong.
        adaptive: Whether an input may draw fewer samples if more samples would change little.
        seed: A non-negative integer, the seed of the noise. Choose a seed that an attacker cannot
            know, if this matters.
        index: The position of the first input in its data set, or one position per input. The log
            calls it idx. The position also decides the noise.
        facts: More facts of the run for the log's side file, such as the data set's name. They do
            not decide whether a run is the same.
        verbose: 1 shows a line of progress with counts and the remaining time, 0 shows nothing,
            "auto" shows progress on a terminal and in a notebook.

    Returns:
        `SmoothedResult`: arrays ``prediction``, ``radius``, ``label``, ``index``, ``seconds``, and
        ``certified_accuracy(radius)``, ``mean_radius``, ``summary()``.

    Example:

    >>> smoothed = tfcert.smoothing.SmoothedClassifier(model, sigma=0.25)
    >>> result = tfcert.smoothing.certify_set(smoothed, x, y, log="smoothing.tsv", n=10_000)
    >>> result.certified_accuracy(0.5)
    """
    x, classes = smoothed.checked(x)
    labels = checks.integer_labels(np.asarray(y), classes)
    checks.check_labels(labels, len(x), classes)
    labels, places = labels.astype("int64"), checked_places(index, len(x)).astype("int64")
    if len(np.unique(places)) < len(places):
        raise ValueError("`index` must not repeat a number.")
    progress.wanted(verbose)  # Checked before any work is done.
    sampling: dict[str, Any] = {"n0": n0, "n": n, "alpha": alpha, "seed": seed}
    sampling["adaptive"] = checked_adaptive(adaptive) or False
    smoothed.check_sampling(**sampling)
    settings = _settings(smoothed, sampling)
    run = _Run(places, labels)
    if log is None:
        run.certify(smoothed, x, sampling, lambda entries: None, verbose)
        return run.result(settings)
    known = {
        **(facts or {}),
        "hashes": {
            "model": identity.of_model(smoothed.model),
            "data": identity.of_arrays(x, labels, places),
            "settings": identity.of_settings(settings),
        },
        "inputs": len(labels),
        "settings": settings,
    }
    with logs.Writer(log, "smoothing", known, provenance.session()) as writer:
        run.restore(writer)
        run.certify(smoothed, x, sampling, writer.write, verbose)
    return run.result(settings)


def _settings(smoothed: SmoothedClassifier, sampling: dict[str, Any]) -> dict[str, Any]:
    """What decides the results besides model and data, as JSON holds it."""
    names = {kind: name for name, kind in noise.NOISES.items()}
    rule = sampling["adaptive"]
    return {
        "noise": names[type(smoothed.noise)],
        "sigma": float(smoothed.noise.scale),
        "n0": int(sampling["n0"]),
        "n": int(sampling["n"]),
        "alpha": float(sampling["alpha"]),
        # All of the rule, so that a log goes on by the rule that it began with.
        "adaptive": dataclasses.asdict(rule) if rule else False,
        "precision": precision.computes_in(smoothed.model),
        "seed": int(sampling["seed"]),
        "backend": backend.name(),  # Each has noise of its own.
    }


class _Run:
    """Inputs and what is known of them: entries as the log holds them, by place."""

    def __init__(self, places: np.ndarray, y: np.ndarray):
        self._places, self._y = places, y
        self._entries: dict[int, dict[str, Any]] = {}

    def restore(self, writer: logs.Writer) -> None:
        """Takes over what a log holds."""
        labels: dict[Any, Any] = dict(zip(self._places.tolist(), self._y.tolist(), strict=True))
        for entry in writer.entries:
            if labels.get(entry["idx"]) != entry["label"]:
                raise ValueError(
                    f"{writer.path} has a line for input {entry['idx']} with label "
                    f"{entry['label']}, which is not in the data. The file was changed."
                )
            self._entries[entry["idx"]] = entry

    def certify(
        self,
        smoothed: SmoothedClassifier,
        x: np.ndarray,
        sampling: dict[str, Any],
        write: Callable[[Iterable[dict[str, Any]]], None],
        verbose: progress.Verbose,
    ) -> None:
        """Certifies what is left, batch by batch, and writes each batch at once."""
        left = [i for i, place in enumerate(self._places.tolist()) if place not in self._entries]
        bar = progress.Progress(len(self._y), len(self._entries), self._counts, verbose)
        together = max(1, _TOGETHER // sampling["n"])
        for start in range(0, len(left), together):
            rows = np.array(left[start : start + together])
            begin = time.perf_counter()
            found = smoothed.certify(x[rows], index=self._places[rows], **sampling)
            seconds = (time.perf_counter() - begin) / len(rows)
            new: list[dict[str, Any]] = [
                {
                    "idx": int(self._places[row]),
                    "label": int(self._y[row]),
                    "predict": int(prediction),
                    "radius": float(radius),
                    "correct": bool(prediction == self._y[row]),
                    "time": seconds,
                }
                for row, prediction, radius in zip(
                    rows, found.prediction, found.radius, strict=True
                )
            ]
            write(new)
            self._entries |= {entry["idx"]: entry for entry in new}
            bar.add(len(new))
        bar.close()

    def result(self, settings: dict[str, Any]) -> SmoothedResult:
        """All entries as arrays, in the order of the inputs."""
        entries = [self._entries[place] for place in self._places.tolist()]

        def column(name: str, dtype: str) -> np.ndarray:
            return np.array([entry[name] for entry in entries], dtype)

        return SmoothedResult(
            prediction=column("predict", "int64"),
            radius=column("radius", "float64"),
            label=column("label", "int64"),
            index=column("idx", "int64"),
            seconds=column("time", "float64"),
            settings=settings,
        )

    def _counts(self) -> dict[str, object]:
        right = [entry["correct"] for entry in self._entries.values()]
        radii = [entry["radius"] * entry["correct"] for entry in self._entries.values()]
        return {"right": sum(right), "mean radius": f"{np.mean(radii or [0.0]):.3f}"}
