"""A region for each of several inputs, on the vector of all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from tfcert.regions import region, seeds
from tfcert.regions.alternatives import Alternatives
from tfcert.regions.blocks import Blocks
from tfcert.regions.lp_ball import LpBall
from tfcert.regions.numbers import Number, Numbers
from tfcert.regions.options import Options, joined
from tfcert.regions.words import WordSubstitutions
from tfcert.types import ArrayLike, Tensor

__all__ = ["Product", "as_region"]

OneRegion: TypeAlias = region.Region | WordSubstitutions | str
Radii: TypeAlias = Mapping[str, ArrayLike | Tensor] | Sequence[ArrayLike | Tensor | None]

# The region of an input that is fixed.
_STILL = LpBall(0.0)


@keras.saving.register_keras_serializable(package="tfcert")
class Product(region.Region):
    """A region for each of several inputs.

    Functions that know the model, such as ``tfcert.bound``, attacks and ``CertifiedTrainer``, take
    it, or the dictionary or the list that it is made of. They compute on vectors, ``(batch,
    size)``: the flattened inputs, one behind the other. Whatever is asked of the region is asked of
    each block: a linear function has its minimum where each block has it.

    Words that may change (``WordSubstitutions``) are a region of an input that an ``Embedding``
    reads.

    Args:
        regions: A region, or "fixed", for each input: a dictionary by the names of the inputs, or a
            list in their order.
        shapes: The shapes of one entry of each block of a vector, without the batch axis; None: the
            model tells.

    Example:

    >>> import numpy as np
    >>> from tfcert.regions import Box, LpBall, Product
    >>> region = Product([LpBall(0.5, norm=2), Box([0.0], [3.0])], [(2,), (1,)])
    >>> x = np.array([[0.0, 0.0, 1.0]], "float32")
    >>> float(region.minimise(np.array([[[3.0, 4.0, -1.0]]], "float32"), x)[0, 0])
    -5.5
    """

    def __init__(
        self,
        regions: Mapping[str, OneRegion] | Sequence[OneRegion],
        shapes: Sequence[Sequence[int]] | None = None,
    ):
        named = isinstance(regions, Mapping)
        self.names = tuple(regions) if named else None
        given = tuple(regions.values()) if isinstance(regions, Mapping) else tuple(regions)
        labels = self.names or range(len(given))
        found = [_one(one, label) for one, label in zip(given, labels, strict=True)]
        self.regions: tuple[Any, ...] = tuple(found)
        if not found or (shapes is not None and len(found) != len(shapes)):
            raise ValueError(
                "`regions` must hold one region for each of `shapes`. "
                f"Received: {len(found)} regions and {len(shapes or ())} shapes."
            )
        # Shared with all copies: a region that was scaled before learns what this one is told.
        self._blocks, self._given = Blocks(), shapes is not None
        if shapes is not None:
            self._blocks.settle(range(len(found)), shapes)
        norms = {one.norm for one in found if isinstance(one, region.Region)}
        # Where norms differ the whole has none; it is no box either.
        self.norm = norms.pop() if len(norms) == 1 and norms <= {math.inf} else math.nan

    # The inputs, and the blocks of the vector.

    @property
    def is_placed(self) -> bool:
        """True if the shapes of the blocks were given."""
        return self._given

    @property
    def _known(self) -> Blocks:
        """The blocks, once they are known."""
        if not self._blocks.shapes:
            raise ValueError(
                "A region of several inputs needs to know how a model's inputs become one vector. "
                "Pass it with the model, as to tfcert.bound, to an attack or to CertifiedTrainer, "
                f"or give `shapes`. Received: shapes=None with regions={list(self.regions)!r}."
            )
        return self._blocks

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of one entry of each block of a vector, without the batch axis."""
        return self._known.shapes

    @property
    def parts(self) -> tuple[region.Region, ...]:
        """The region of each block."""
        return tuple(_STILL if n is None else self.regions[n] for n in self._blocks.order)

    def by_input(self, values: Sequence[Any]) -> Any:
        """Values for the inputs: a dictionary where the regions were given as one, or a list."""
        if self.names is None:
            return list(values)
        return dict(zip(self.names, values, strict=True))

    def words(self) -> tuple[Any, ...]:
        """The inputs whose words may change: their names, or their numbers in a list."""
        return tuple(key for key, one in self._pairs() if isinstance(one, WordSubstitutions))

    def sized(self) -> tuple[Any, ...]:
        """The inputs whose region has a radius: their names, or their numbers in a list."""
        return tuple(k for k, one in self._pairs() if isinstance(one, LpBall) and one != _STILL)

    def _pairs(self) -> list[tuple[Any, Any]]:
        """The name of each input, or its number in a list, and its region."""
        return list(zip(self.names or range(len(self.regions)), self.regions, strict=True))

    def settle(self, order: Sequence[int | None], shapes: Sequence[Sequence[int]]) -> None:
        """Tells the region, and all copies of it, which blocks the vectors of a model have.

        Args:
            order: The number of the region of each block; None for a block that stays as it is.
            shapes: The shapes of the blocks.
        """
        other = Blocks()
        other.settle(order, shapes)
        if self._blocks.shapes and vars(other) != vars(self._blocks):
            raise ValueError(
                "A region of several inputs that trained one model was given to a model with "
                f"other inputs. Make another one. Received: region={self!r}."
            )
        self._blocks.settle(order, shapes)

    def blocks(self, values: Tensor) -> list[Tensor]:
        """The blocks of vectors, in their own shapes; leading axes stay."""
        return self._known.cut(values)

    def each(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        found = []
        parts = [self.blocks(ops.convert_to_tensor(value)) for value in values]
        for number, (one, shape) in enumerate(zip(self.parts, self.shapes, strict=True)):
            result = function(one, *(part[number] for part in parts))
            lead = tuple(ops.shape(result))[: len(result.shape) - len(shape)]
            found.append(ops.reshape(result, (*lead, math.prod(shape))))
        return ops.concatenate(found, axis=-1)

    def _of_each(self, change: Callable[..., region.Region], *values: Any) -> Product:
        """The same blocks with regions that were changed one by one."""
        other = copy.copy(self)
        other.regions = tuple(map(change, self.regions, *values))
        return other

    # Checks.

    def _check_shapes(self, shape: tuple) -> None:
        size = self._known.ends[-1]
        if len(shape) != 2 or shape[1] not in (None, size):
            raise ValueError(
                f"x must have the shape (batch, {size}). Received: x of shape {shape}."
            )
        for one, own in zip(self.parts, self.shapes, strict=True):
            one._check_shapes((shape[0], *own))

    def _check_values(self, x: np.ndarray) -> None:
        for one, block in zip(self.parts, self.blocks(x), strict=True):
            one._check_values(block)

    def admits(self, x: Tensor) -> Tensor:
        found = [one.admits(block) for one, block in zip(self.parts, self.blocks(x), strict=True)]
        return ops.all(ops.stack(found, axis=-1), axis=-1)

    # Bounds.

    def _limits(self, x: Tensor, outward: bool) -> tuple[Tensor, Tensor]:
        lower = self.each(lambda one, block: one._limits(block, outward)[0], x)
        return lower, self.each(lambda one, block: one._limits(block, outward)[1], x)

    def bind(self, x: Tensor) -> region.BoundRegion:
        bound = super().bind(x)
        if self.norm == math.inf:
            return bound
        x = ops.convert_to_tensor(x)

        def part(name: str) -> Tensor:
            # A box has neither, and does not read what stands in their place.
            def of(one: region.Region, block: Tensor) -> Tensor:
                value = getattr(one.bind(block), name)
                return ops.zeros_like(block) if value is None else value

            return self.each(of, x)

        center, radius = part("center"), part("radius")
        return bound._replace(center=center, radius=radius, moves=self._moves(x))

    def _moves(self, x: Tensor) -> Tensor | None:
        """The ways to the alternatives of all finite blocks, flat, one behind the other."""
        found = []
        for one, block in zip(self.parts, self.blocks(x), strict=True):
            moves = one.bind(block).moves
            if moves is not None:
                found.append(ops.reshape(moves, (ops.shape(x)[0], math.prod(moves.shape[1:]))))
        return ops.concatenate(found, axis=-1) if found else None

    def minimise_beside(self, coefficients: Tensor, bound: region.BoundRegion) -> Tensor:
        """Returns ``minimise_bound`` for a region from ``split``: the sum over the blocks."""
        if self.norm == math.inf:
            return self._minimise_box(coefficients, bound)
        total: Any = 0.0
        taken, whole = 0, bound._replace(moves=None)
        for one, shape, place in zip(self.parts, self.shapes, self._blocks.ranges, strict=True):
            low, high = place
            cut = region.BoundRegion(*(None if t is None else t[..., low:high] for t in whole))
            rows = coefficients[..., low:high]
            if isinstance(one, Alternatives):
                rows = ops.reshape(rows, (*ops.shape(rows)[:2], *shape))
                center, several = cut.center, one.choices.shape[2]
                assert center is not None and bound.moves is not None
                size = math.prod(shape) * several
                moves = bound.moves[..., taken : taken + size]
                taken += size
                cut = cut._replace(
                    center=ops.reshape(center, (*ops.shape(center)[:2], *shape)),
                    moves=ops.reshape(moves, (-1, 1, shape[0], several, *shape[1:])),
                )
            total = total + one.minimise_beside(rows, cut)
        return total

    # Attacks.

    def minimiser(self, coefficients: Tensor, x: Tensor) -> Tensor:
        return self.each(lambda one, a, block: one.minimiser(a, block), coefficients, x)

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        return self.each(lambda one, block, center: one.project(block, center), points, x)

    def _sample(self, x: Tensor, count: int, seed: seeds.Seeds, corners: bool) -> Tensor:
        numbers = iter(range(len(self.parts)))

        def drawn(one: region.Region, block: Tensor) -> Tensor:
            return one._sample(block, count, seeds.Seeds(seed.seed + 7919 * next(numbers)), corners)

        return self.each(drawn, x)

    def reach(self, x: Tensor) -> Tensor:
        return self.each(lambda one, block: one.reach(block), x)

    def _contains(self, points: np.ndarray, x: np.ndarray) -> np.ndarray:
        parts = zip(self.parts, self.blocks(points), self.blocks(x), strict=True)
        return np.all([one._contains(block, center) for one, block, center in parts], axis=0)

    # Choices.

    @property
    def splits(self) -> bool:
        return all(one.splits for one in self.parts)

    def options(self, x: np.ndarray) -> Options | None:
        """Returns the choices of all blocks."""
        found = [one for _, one in self._options(x) if one is not None]
        starts = [start for start, one in self._options(x) if one is not None]
        return joined(list(zip(starts, found, strict=True))) if found else None

    def _options(self, x: np.ndarray) -> list[tuple[int, Options | None]]:
        """Where each block begins, and its choices."""
        starts = self._known.ends[:-1]
        parts = zip(starts, self.parts, self.blocks(x), strict=True)
        return [(start, one.options(block)) for start, one, block in parts]

    def assigned(
        self, x: np.ndarray, owner: np.ndarray, chosen: np.ndarray, changes: np.ndarray
    ) -> tuple[region.Region, np.ndarray]:
        """Returns the product of the parts of all blocks."""
        regions, centers, slot, family = [], [], 0, 0
        for one, block, (_, own) in zip(self.parts, self.blocks(x), self._options(x), strict=True):
            slots, families = (0, 0) if own is None else (len(own.family), len(own.most))
            part, center = one.assigned(
                *(block, owner, chosen[:, slot : slot + slots]),
                changes[family : family + families],
            )
            slot, family = slot + slots, family + families
            regions.append(part)
            centers.append(center.reshape(len(owner), -1))
        return Product(regions, self.shapes), np.concatenate(centers, axis=1)

    # Numbers.

    def _described(self, rank: int) -> dict[str, Number]:
        return {
            f"{place}.{name}": number
            for place, shape in zip(self._blocks.order, self.shapes, strict=True)
            if place is not None
            for name, number in self.regions[place]._described(rank and len(shape) + 1).items()
        }

    def signature(self) -> Hashable:
        return type(self), self._blocks.order, self.shapes, tuple(o.signature() for o in self.parts)

    def template(self) -> Product:
        return self._of_each(lambda one: one.template())

    def with_numbers(self, numbers: Numbers) -> Product:
        def own(values: Any, place: int) -> dict[str, Any]:
            start = f"{place}."
            return {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}

        places = range(len(self.regions))
        parts = [Numbers(own(numbers.shared, i), own(numbers.per_sample, i)) for i in places]
        other = self._of_each(lambda one, part: one.with_numbers(part), parts)
        other._checked = True
        return other

    def select(self, places: np.ndarray, x: Tensor) -> Product:
        empty = {
            number: np.zeros((1, *shape), "float32")
            for number, shape in zip(self._blocks.order, self.shapes, strict=True)
        }
        blocks = [empty.get(number) for number in range(len(self.regions))]
        return self._of_each(
            lambda one, block: one if block is None else one.select(places, block), blocks
        )

    # Sizes.

    def with_eps(self, eps: ArrayLike | Tensor | Radii) -> Product:
        """Returns the same regions with other radii, for the inputs that have one.

        Args:
            eps: A radius for inputs whose region is a ``tfcert.LpBall``: a dictionary by the names
                of inputs, in which inputs that keep their size are left out; or for a list of
                regions a list, with None for those that keep it. Each radius is what ``with_eps``
                of the ball takes.
        """
        sized = self.sized()
        keys = self.names or range(len(self.regions))
        given: dict[Any, Any] = {None: eps}
        if isinstance(eps, Mapping) and self.names is not None:
            given = dict(eps)
        elif isinstance(eps, list | tuple) and self.names is None and len(eps) == len(keys):
            given = {key: size for key, size in enumerate(eps) if size is not None}
        if not set(given) <= set(sized):
            form = "list" if self.names is None else "dictionary"
            raise ValueError(
                f"`eps` (or `train_eps`) must be a {form} with a radius for each input that has "
                f"one, {', '.join(map(repr, sized)) or 'none of these'}. `scaled` shrinks all "
                f"regions together. Received: eps={eps!r}."
            )
        return self._of_each(
            lambda one, key: one.with_eps(given[key]) if key in given else one, list(keys)
        )

    def scaled(self, fraction: ArrayLike | Tensor) -> Product:
        """Returns the region with every block shrunk towards x to a fraction of its size."""
        return self._of_each(lambda one: one.scaled(fraction))

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        regions = [keras.saving.serialize_keras_object(one) for one in self.regions]
        return {"regions": self.by_input(regions), **self._given_shapes()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Product:
        read, given = keras.saving.deserialize_keras_object, config["regions"]
        if isinstance(given, Mapping):
            return cls({name: read(one) for name, one in given.items()}, config["shapes"])
        return cls([read(one) for one in given], config["shapes"])

    def _given_shapes(self) -> dict[str, Any]:
        return {"shapes": [list(shape) for shape in self.shapes] if self._given else None}

    def _fields(self) -> dict[str, Any]:
        shapes = self.shapes if self._given else None
        return {"names": self.names, "regions": self.regions, "shapes": shapes}

    def __repr__(self) -> str:
        shapes = f", shapes={list(self.shapes)!r}" if self._given else ""
        return f"Product(regions={self.by_input(self.regions)!r}{shapes})"


def _one(given: Any, label: Any) -> Any:
    """The region of one input."""
    if isinstance(given, str) and given == "fixed":
        return _STILL
    if isinstance(given, Product) or not isinstance(given, region.Region | WordSubstitutions):
        raise ValueError(
            'Each input of `region` must be a tfcert.LpBall, a tfcert.Box, or "fixed". '
            f"Received: region={given!r} for input {label!r}."
        )
    return given


def as_region(given: Any) -> Any:
    """A region, where a dictionary or a list of regions stands for one of several inputs."""
    return Product(given) if isinstance(given, Mapping | list | tuple) else given
