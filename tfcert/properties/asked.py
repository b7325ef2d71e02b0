"""Properties of a network's outputs around given inputs."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from tfcert.properties import arguments
from tfcert.properties.cases import Case
from tfcert.properties.questions import Problem, Question
from tfcert.regions import Region
from tfcert.types import ArrayLike

__all__ = ["ClassStays", "Linear", "OutputProperty", "OutputRange", "Targeted", "TopK"]

Array = npt.NDArray[np.float64]

# Combinations of outputs that a counting property may be written out as.
_MOST_CASES = 100_000


class OutputProperty:
    """Base class of properties of the outputs for all inputs of a region.

    A subclass defines linear functions of the outputs, its margins, and how many margins must be
    above 0. A margin of exactly 0 counts as broken.
    """

    # The names of the arguments that may hold one entry an input, with the axes of one entry.
    _per_input: ClassVar[dict[str, int]] = {}

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        """Returns the margins: rows ``(inputs, rows, outputs)`` and offsets ``(inputs, rows)``."""
        raise NotImplementedError

    def needed(self, rows: int) -> int:
        """Returns the number of margins that must be above 0, by default all."""
        return rows

    @property
    def takes_labels(self) -> bool:
        """Returns True if each batch of training brings the class that the property is about."""
        return False

    # Whether only the order of the outputs counts, so that a softmax behind them changes nothing.
    ranks: ClassVar[bool] = False

    def labels(self, inputs: int) -> npt.NDArray[np.int64]:
        """Returns the class of each input that the property names, or -1 if it names none."""
        return np.full(inputs, -1)

    def is_class(self) -> bool:
        """Returns whether the property says that each input keeps its class."""
        return False

    def margins_of(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        """Returns ``margins``, and checks that they have an entry for each input."""
        self._check_count(inputs)
        return self.margins(inputs, outputs)

    def fixed_margins(self, outputs: int) -> tuple[Array, Array, Array | None]:
        """The margins of any input, for training: nothing about them is known before.

        Args:
            outputs: The number of outputs of the network.

        Returns:
            Rows ``(rows, outputs)``, offsets ``(rows,)``, and factors ``(rows, outputs)`` of the
            targets that come with a batch, None where the property needs no targets: the margins
            are ``rows @ output + offsets + factors @ target``.
        """
        for name, axes in self._per_input.items():
            value = getattr(self, name)
            if value is not None and value.ndim > axes and len(value) != 1:
                raise ValueError(
                    f"`{name}` must hold one entry for all inputs, since training draws batches. "
                    "A property whose data come with the batch is tfcert.properties.Near. "
                    f"Received: {name} of shape {value.shape}."
                )
        rows, offsets = self.margins_of(1, outputs)
        return rows[0], offsets[0], None

    def proved(self, lower: ArrayLike) -> npt.NDArray[np.bool_]:
        """Returns whether lower bounds of the margins prove the property, ``(batch,)``.

        Args:
            lower: ``(batch, rows)``, from ``tfcert.bound_margins`` with this property.
        """
        lower = np.asarray(ops.convert_to_numpy(lower) if ops.is_tensor(lower) else lower)
        positive = (lower > 0).sum(axis=1)
        return positive >= self.needed(lower.shape[1])

    def questions(self, inputs: int, outputs: int) -> list[Question]:
        """Returns the property as one question per input.

        Args:
            inputs: The number of inputs.
            outputs: The number of outputs of the network.
        """
        rows, offsets = self.margins_of(inputs, outputs)
        groups, needs = np.ones((1, rows.shape[1]), bool), [self.needed(rows.shape[1])]
        return [Question(own, more, groups, needs) for own, more in zip(rows, offsets, strict=True)]

    def problems(self, x: ArrayLike, region: Region, outputs: int) -> list[Problem]:
        """The same as one problem for each box of an input's region: one where it is a box.

        Args:
            x: Inputs, ``(batch, *input_shape)``, in the type of the network.
            region: A ``Box``, or an ``LpBall`` of the norm "inf".
            outputs: The number of outputs of the network.
        """
        region.validate(x)
        outward, inward = region.interval(x), region.inner_limits(x)
        lower, upper, low, high = (
            np.asarray(ops.convert_to_numpy(end)) for end in (*outward, *inward)
        )
        low, high = low.astype(np.float64), high.astype(np.float64)
        questions = self.questions(len(lower), outputs)
        found = []
        for own, question in zip(zip(lower, upper, low, high, strict=True), questions, strict=True):
            for fixed in region.boxes(own[1]):
                free = np.isnan(fixed)
                ends = [np.where(free, end, fixed.astype(end.dtype)) for end in own]
                found.append(Problem(ends[0], ends[1], question, (ends[2], ends[3])))
        return found

    def cases(self, x: ArrayLike, region: Region, outputs: int) -> list[tuple[Case, ...]]:
        """Returns the ways to break the property around each input, for regions that are boxes.

        Args:
            x: Inputs, ``(batch, *input_shape)``.
            region: A ``Box``, or an ``LpBall`` of the norm "inf".
            outputs: The number of outputs of the network.
        """
        found = []
        for lower, upper, question, _ in self.problems(x, region, outputs):
            limits = (np.asarray(lower, np.float64).ravel(), np.asarray(upper, np.float64).ravel())
            rows = -np.concatenate([question.rows, question.offsets[:, None]], axis=1)
            chosen = question.conjunctions(_MOST_CASES)
            found.append(tuple(Case(*limits, rows[places]) for places in chosen))
        return found

    def _check_count(self, inputs: int) -> None:
        """Raises where an argument holds entries for another number of inputs."""
        for name, axes in self._per_input.items():
            value = getattr(self, name)
            if value is not None and value.ndim > axes and len(value) != inputs:
                raise ValueError(
                    f"`{name}` must hold one entry for all inputs, or one for each of {inputs}. "
                    f"Received: {name} of shape {value.shape}."
                )

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras's saving."""
        return {name: arguments.plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OutputProperty:
        return cls(**{name: arguments.restored(value) for name, value in config.items()})

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={arguments.shown(value)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({given})"


@keras.saving.register_keras_serializable(package="tfcert.properties")
class ClassStays(OutputProperty):
    """The property that output y is the largest: ``f_y - f_j > 0`` for all other j.

    Args:
        y: The class: an integer, or one integer per input.

    Example:

    >>> x, region = np.zeros((1, 2), "float32"), tfcert.LpBall(0.1)
    >>> (question,) = tfcert.properties.ClassStays(1).questions(inputs=1, outputs=3)
    >>> question.rows.tolist()
    [[-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]]
    """

    ranks = True
    _per_input = {"y": 0}

    def __init__(self, y: ArrayLike):
        self.y: Any = arguments.classes("y", y)

    def labels(self, inputs: int) -> npt.NDArray[np.int64]:
        return np.broadcast_to(self.y, (inputs,))

    def is_class(self) -> bool:
        return True

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        own = arguments.spread("y", self.y, inputs, outputs)
        if outputs < 2:
            raise ValueError(
                "A margin is between two outputs: the model must have at least two. "
                f"Received: outputs={outputs}."
            )
        rival = np.arange(outputs - 1)[None]
        rival = rival + (rival >= own[:, None])
        eye = np.eye(outputs)
        return eye[own][:, None] - eye[rival], np.zeros(rival.shape)


@keras.saving.register_keras_serializable(package="tfcert.properties")
class TopK(ClassStays):
    """The property that output y is among the k largest: at most k - 1 others reach it.

    Args:
        y: The class: an integer, or one integer per input. None in training: the labels come with
            each batch.
        k: The number of outputs that count as the largest.
    """

    def __init__(self, y: ArrayLike | None, k: int):
        if y is not None:
            super().__init__(y)
        else:
            self.y = None
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ValueError(f"`k` must be an integer >= 1. Received: k={k!r}.")
        self.k = int(k)

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        if self.y is None:
            raise ValueError(
                "`y` must be given where no training brings labels: "
                f"tfcert.properties.TopK(labels, {self.k}). Received: y=None."
            )
        self.needed(outputs - 1)
        return super().margins(inputs, outputs)

    def needed(self, rows: int) -> int:
        if self.k > rows:
            raise ValueError(
                f"`k` must be below the number of outputs, {rows + 1}; otherwise the property "
                f"always holds. Received: k={self.k}."
            )
        return rows - (self.k - 1)

    @property
    def takes_labels(self) -> bool:
        return self.y is None

    def is_class(self) -> bool:
        return self.k == 1


@keras.saving.register_keras_serializable(package="tfcert.properties")
class Targeted(OutputProperty):
    """The property that output y is larger than another one: ``f_y - f_target > 0``.

    Args:
        y: The class: an integer, or one integer per input.
        target: The output that must stay smaller: an integer, or one integer per input.
    """

    ranks = True
    _per_input = {"y": 0, "target": 0}

    def __init__(self, y: ArrayLike, target: ArrayLike):
        self.y, self.target = arguments.classes("y", y), arguments.classes("target", target)
        if (self.y == self.target).any():
            raise ValueError(
                "`target` must be another output than `y`. "
                f"Received: y={arguments.shown(self.y)}, target={arguments.shown(self.target)}."
            )

    def labels(self, inputs: int) -> npt.NDArray[np.int64]:
        return np.broadcast_to(self.y, (inputs,))

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        own = arguments.spread("y", self.y, inputs, outputs)
        other = arguments.spread("target", self.target, inputs, outputs)
        eye = np.eye(outputs)
        return (eye[own] - eye[other])[:, None], np.zeros((inputs, 1))


@keras.saving.register_keras_serializable(package="tfcert.properties")
class OutputRange(OutputProperty):
    """The property that every output lies strictly between two limits.

    Args:
        lower: Lower limits, which broadcast to the outputs of one input, ``(outputs,)``, or of a
            batch, ``(batch, outputs)``. -inf stands for an output without a limit. None: no lower
            limits.
        upper: Upper limits in the same form; inf stands for an output without a limit.
    """

    _per_input = {"lower": 1, "upper": 1}

    def __init__(self, lower: ArrayLike | None = None, upper: ArrayLike | None = None):
        if lower is None and upper is None:
            raise ValueError("`lower` or `upper` must be given. Received: lower=None, upper=None.")
        self.lower, self.upper = (
            arguments.numbers("lower", lower),
            arguments.numbers("upper", upper),
        )

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        rows, offsets = [], []
        for name, sign in (("lower", 1.0), ("upper", -1.0)):
            limit = getattr(self, name)
            if limit is None:
                continue
            limit = arguments.broadcast(name, limit, (inputs, outputs))
            # Without a limit: a margin that is positive everywhere.
            free = limit == -sign * np.inf
            eye = sign * np.eye(outputs)
            rows.append(np.where(free[..., None], 0.0, eye))
            offsets.append(np.where(free, 1.0, -sign * limit))
        return np.concatenate(rows, axis=1), np.concatenate(offsets, axis=1)


@keras.saving.register_keras_serializable(package="tfcert.properties")
class Linear(OutputProperty):
    """The property that all linear functions ``rows @ outputs + offsets`` are positive.

    Args:
        rows: ``(rows, outputs)`` for all inputs, or ``(batch, rows, outputs)``.
        offsets: An array that broadcasts to ``(rows,)``, or to ``(batch, rows)``.
    """

    _per_input = {"rows": 2, "offsets": 1}

    def __init__(self, rows: ArrayLike, offsets: ArrayLike = 0.0):
        given, more = arguments.numbers("rows", rows), arguments.numbers("offsets", offsets)
        assert given is not None and more is not None
        if given.ndim not in (2, 3) or not given.shape[-2]:
            raise ValueError(
                "`rows` must have the shape (rows, outputs) or (batch, rows, outputs). "
                f"Received: rows of shape {given.shape}."
            )
        for name, value in (("rows", given), ("offsets", more)):
            if not np.isfinite(value).all():
                raise ValueError(
                    f"`{name}` must be finite. Received: {name}={arguments.shown(value)}."
                )
        if more.ndim > 2:
            raise ValueError(
                "`offsets` must be a number, or of the shape (rows,) or (batch, rows). "
                f"Received: offsets of shape {more.shape}."
            )
        self.rows, self.offsets = given, more

    def margins(self, inputs: int, outputs: int) -> tuple[Array, Array]:
        if self.rows.shape[-1] != outputs:
            raise ValueError(
                f"`rows` must have one column for each of {outputs} outputs. "
                f"Received: rows of shape {self.rows.shape}."
            )
        count = self.rows.shape[-2]
        try:
            offsets = np.broadcast_to(self.offsets, (inputs, count))
        except ValueError:
            raise ValueError(
                f"`offsets` must broadcast against {count} rows. "
                f"Received: offsets of shape {self.offsets.shape}."
            ) from None
        return np.broadcast_to(self.rows, (inputs, count, outputs)), offsets
