"""Backups that resume training: one complete file for each epoch."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import keras

from tfcert import files, graph

__all__ = ["Backup"]

_NAME = re.compile(r"epoch_(\d{5})\.weights\.h5")


class Backup(keras.callbacks.Callback):
    """Keeps the weights and the optimizer after every epoch, and starts from what is there.

    Keras's ``BackupAndRestore`` writes weights and the number of the epoch to two files, in place:
    a kill or a full disk in between leaves a run that goes on from the wrong epoch, or not at all.
    Here the number is the file's name, which it gets when it is complete.

    Args:
        folder: Where.
    """

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder = folder

    def on_train_begin(self, logs: Any = None) -> None:
        known = self._known()
        if not known:
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        epoch = max(known)
        self.model.load_weights(known[epoch])
        graph.start_at_epoch(self.model, epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        path = self.folder / f"epoch_{epoch + 1:05d}.weights.h5"
        self.folder.mkdir(exist_ok=True)
        files.save(path, self.model.save_weights)
        for other in self._known().values():
            if other != path:
                other.unlink()

    def _known(self) -> dict[int, pathlib.Path]:
        """The files by epoch."""
        found = {path: _NAME.fullmatch(path.name) for path in self.folder.glob("epoch_*")}
        return {int(match[1]): path for path, match in found.items() if match}
