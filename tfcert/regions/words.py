"""Words of a text that may be replaced by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfcert.regions.alternatives import Alternatives
from tfcert.types import ArrayLike

__all__ = ["WordSubstitutions"]


@keras.saving.register_keras_serializable(package="tfcert")
class WordSubstitutions:
    """The region of all texts with at most `max_changes` words replaced by alternatives.

    For models that begin with an ``Embedding``. ``tfcert.bound`` and its relatives, and
    ``tfcert.certify``, take it in the place of a region: they bound the part of the model behind
    the embedding, on the vectors of all words that may stand at each position. So does
    ``tfcert.attacks.Substitutions``, which gives words.

    Args:
        table: The allowed replacements of each word: ``{word: [other words]}``, or an array of the
            shape ``(words, alternatives)``, in which negative entries are ignored. Words outside
            the table are never replaced.
        max_changes: The largest number of replaced positions in a sequence. None: all positions.

    Example:

    >>> region = tfcert.regions.WordSubstitutions({3: [7, 8], 7: [3]}, max_changes=2)
    >>> margins = tfcert.bound_margins(model, words, y, region, method="crown")
    """

    is_finite = True

    def __init__(self, table: Mapping[int, Sequence[int]] | ArrayLike, max_changes: int | None = 1):
        whole = isinstance(max_changes, (int, np.integer)) and not isinstance(max_changes, bool)
        if max_changes is not None and not (whole and max_changes >= 0):
            raise ValueError(
                "`max_changes` must be an integer >= 0, or None for all positions. "
                f"Received: max_changes={max_changes!r}."
            )
        self.max_changes = None if max_changes is None else int(max_changes)
        self.table = _as_table(table)
        self._width = max([len(others) for others in self.table.values()], default=0)

    def alternatives(self, words: ArrayLike) -> np.ndarray:
        """Returns the words allowed at each position, ``(*shape of words, alternatives)``.

        If a position has fewer words than others, the word itself fills the rest.
        """
        words = _as_words(words)
        found = np.repeat(words[..., None], max(self._width, 1), axis=-1)
        for word in np.unique(words):
            others = self.table.get(int(word), ())
            where = words == word
            for place, other in enumerate(others):
                found[where, place] = other
        return found

    def around(self, words: ArrayLike, vectors: ArrayLike) -> Alternatives:
        """Returns the region of vectors, for the part of a model after its embedding.

        Args:
            words: Sequences of integers, ``(batch, positions)``.
            vectors: The embedding, ``(words, features)``.
        """
        found, vectors = self.alternatives(words), np.asarray(vectors)
        if found.max(initial=0) >= len(vectors):
            raise ValueError(
                f"`table` must hold words below {len(vectors)}, which the embedding knows. "
                f"Received: the word {found.max()}."
            )
        changes = found.shape[1] if self.max_changes is None else self.max_changes
        return Alternatives(vectors[found], changes)

    def nearest(self, words: ArrayLike, points: ArrayLike, vectors: ArrayLike) -> np.ndarray:
        """The words whose vectors are closest to points, among those that may stand there.

        Args:
            words: The sequences that were replaced, ``(..., positions)``.
            points: Embedded sequences, ``(..., positions, features)``.
            vectors: The embedding, ``(words, features)``.
        """
        words, points = np.asarray(words), np.asarray(points)
        flat = _as_words(words.reshape(-1, words.shape[-1]))
        found = np.concatenate([flat[..., None], self.alternatives(flat)], axis=-1)
        apart = np.asarray(vectors)[found] - points.reshape(*flat.shape, 1, -1)
        nearest = np.square(apart).sum(axis=-1).argmin(axis=-1)
        return np.take_along_axis(found, nearest[..., None], axis=-1).reshape(words.shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras's saving."""
        table = {str(word): list(others) for word, others in self.table.items()}
        return {"table": table, "max_changes": self.max_changes}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WordSubstitutions:
        table = {int(word): others for word, others in config["table"].items()}
        return cls(table, config["max_changes"])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((tuple(self.table.items()), self.max_changes))

    def __repr__(self) -> str:
        return f"WordSubstitutions({len(self.table)} words, max_changes={self.max_changes})"


def _as_table(table: Any) -> dict[int, tuple[int, ...]]:
    """The alternatives of each word that has some, each once and without the word itself."""
    items = table.items() if isinstance(table, Mapping) else enumerate(np.asarray(table).tolist())
    found = {}
    try:
        for word, others in items:
            some = [int(other) for other in others if other >= 0]
            if any(int(other) != other for other in others) or int(word) != word or word < 0:
                raise ValueError
            distinct = tuple(dict.fromkeys(other for other in some if other != word))
            if distinct:
                found[int(word)] = distinct
    except (TypeError, ValueError):
        raise ValueError(
            "`table` must be {word: [other words]} or an array of integers, (words, "
            f"alternatives). Received: table={table!r}."
        ) from None
    return found


def _as_words(words: Any) -> np.ndarray:
    words = np.asarray(words)
    if words.ndim != 2 or (words != np.floor(words)).any() or (words < 0).any():
        raise ValueError(
            "Words must be integers >= 0 of the shape (batch, positions). Received: an array of "
            f"shape {words.shape} and type {words.dtype}."
        )
    return words.astype("int64")
