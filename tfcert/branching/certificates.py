"""Files with the proofs of ``verify``."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import keras

from tfcert import interchange, proofs
from tfcert.bounds import methods
from tfcert.branching.outcome import Outcome, Reason
from tfcert.proofs.networks import agrees
from tfcert.properties import Property
from tfcert.properties.questions import Problem
from tfcert.properties.writing import write_problems

__all__ = ["Certificate"]


class Certificate:
    """A proof that is to be written where a property holds.

    The proof is about two files. A network from ``load_onnx`` and a property from ``read_vnnlib``
    are in files already. For other models and properties, the files are written beside the proof:
    ``proof.network.npz`` and ``proof.vnnlib`` beside ``proof.npz``.

    Args:
        path: The file to write, a ``.npz``.
        model: The model that the property is about.
        asked: The property.
        problems: The property as problems of the model.
        method: What bounds every part. With ``float_safe`` the proof is about the network as
            executed.

    Attributes:
        tree: Records the search.
        cases: The numbers of the cases of each problem; None: from 0 on, over all problems.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: keras.Model,
        asked: Any,
        problems: Sequence[Problem],
        method: methods.Method,
    ):
        if not method.backward:
            raise ValueError(
                "`certificate` needs a method that sweeps backward, as the checker does, such as "
                f'"crown". Received: method={method!r}.'
            )
        self.tree = proofs.Tree()
        self._path, self._model, self._problems = pathlib.Path(path), model, problems
        self._float_safe, self._sure = method.float_safe, True
        self._folder = tempfile.TemporaryDirectory()
        self._made: dict[pathlib.Path, pathlib.Path] = {}
        written = isinstance(asked, Property) and asked.file is not None
        self.cases = asked.places_by_box() if written else None
        self._property = asked.file if written else self._make(".vnnlib", write_problems, problems)
        network = interchange.file_of(model)
        if network is None or not agrees(model, network):
            network = self._make(".network.npz", proofs.write_network, model)
        self._network = network

    def _make(self, ending: str, write: Any, subject: Any) -> pathlib.Path:
        """Writes a file where it is kept until there is a proof."""
        target = self._path.with_name(self._path.name.removesuffix(".npz") + ending)
        self._made[target] = pathlib.Path(self._folder.name) / target.name
        write(self._made[target], subject)
        return self._made[target]

    def by_checker(self, method: methods.Method) -> methods.Method:
        """A method without float_safe: only the checker decides about the network as executed."""
        self._sure = False
        return dataclasses.replace(method, float_safe=False)

    def written(self, outcome: Outcome) -> Outcome:
        """Writes the proof where the property holds; the outcome says where, or why there is none.

        The proof is checked before it is written.
        """
        if outcome.verdict != "holds":
            return outcome
        try:
            self._write()
        except ValueError as error:
            if not self._sure:
                text = f"The search does not prove the network as executed. {error}"
                reason = Reason("rounding", f"{text} Try float_safe=False, or a smaller region.")
                return dataclasses.replace(
                    outcome, verdict="unknown", reason=reason.text, limit=reason.kind
                )
            notes = (*outcome.notes, f"No certificate was written. {error}")
            return dataclasses.replace(outcome, notes=notes)
        return dataclasses.replace(outcome, certificate=self._path)

    def _write(self) -> None:
        if not self.tree.splits_inputs and self._problems:
            # The checker then bounds hidden values once, on the whole box.
            first = self._problems[0]
            proofs.record_hidden(self.tree, self._model, first.lower, first.upper)
        files = self._network, self._property
        proofs.write_proof(self._path, self.tree, self._model, *files, self._float_safe)
        for target, made in self._made.items():
            shutil.copyfile(made, target)
