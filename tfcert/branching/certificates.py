"""Files with the proofs of ``verify``."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import keras
import numpy as np

from tfcert import interchange, proofs
from tfcert.bounds import methods
from tfcert.branching.outcome import Outcome
from tfcert.properties import Property

__all__ = ["Certificate"]


class Certificate:
    """A proof that is to be written where a property holds.

    Args:
        path: The file to write, a ``.npz``.
        model: From ``tfcert.interchange.load_onnx``.
        asked: From ``tfcert.properties.read_vnnlib``.
        method: What bounds every part.

    Attributes:
        tree: Records the search.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: keras.Model, asked: Any, method: methods.Method
    ):
        network = interchange.file_of(model)
        if network is None or not isinstance(asked, Property) or asked.file is None:
            raise ValueError(
                "`certificate` needs a model from load_onnx and a property from read_vnnlib, whose "
                f"files the checker reads. Received: model={model.name!r}, asked={asked!r}."
            )
        if not method.backward:
            raise ValueError(
                "`certificate` needs a method that sweeps backward, as the checker does, such as "
                f'"crown". Received: method={method!r}.'
            )
        self.tree = proofs.Tree()
        self._path, self._model, self._asked = path, model, asked
        self._files = network, asked.file

    def written(self, outcome: Outcome) -> Outcome:
        """Writes the proof where the property holds; the outcome says where, or why there is none.

        The proof is checked before it is written.
        """
        if outcome.verdict != "holds":
            return outcome
        try:
            self._write()
        except ValueError as error:
            notes = (*outcome.notes, f"No certificate was written. {error}")
            return dataclasses.replace(outcome, notes=notes)
        return dataclasses.replace(outcome, certificate=pathlib.Path(self._path))

    def _write(self) -> None:
        if not self.tree.splits_inputs and self._asked.cases:
            # The checker then bounds hidden values once, on the whole box.
            first, shape = self._asked.cases[0], self._model.input_shape[1:]
            lower, upper = (np.reshape(end, shape) for end in (first.lower, first.upper))
            proofs.record_hidden(self.tree, self._model, lower, upper)
        proofs.write_proof(self._path, self.tree, self._model, *self._files)
