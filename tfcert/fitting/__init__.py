"""What ``CertifiedTrainer.fit`` adds to Keras's: checks, the order of samples, callbacks."""

from tfcert.fitting.arguments import checked, labels, prepare
from tfcert.fitting.models import check_model
from tfcert.fitting.samples import Augmentation, Shuffled
from tfcert.fitting.watching import Latest, StopOnNaN, with_stop

__all__ = [
    "Augmentation",
    "Latest",
    "Shuffled",
    "StopOnNaN",
    "check_model",
    "checked",
    "labels",
    "prepare",
    "with_stop",
]
