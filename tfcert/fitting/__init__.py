"""Additions of ``CertifiedTrainer.fit`` to Keras: checks, the order of samples, callbacks."""

from tfcert.fitting.data import checked, prepare
from tfcert.fitting.models import check_model, settle
from tfcert.fitting.samples import Augmentation, Batches, Shuffled, taken
from tfcert.fitting.watching import Latest, StopOnNaN

__all__ = [
    "Augmentation",
    "Batches",
    "Latest",
    "Shuffled",
    "StopOnNaN",
    "check_model",
    "checked",
    "prepare",
    "settle",
    "taken",
]
