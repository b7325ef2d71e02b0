"""What an objective of smoothing does with its first batch, for tests."""

import numpy as np
from keras import ops

from tests import training_support as ts


def first(objective, model=None, samples=20, epoch=0.0, training=True):
    """The batch behind the first pass, the terms, and the scores as NumPy."""
    x, y = ts.data(samples)
    trainer, batch = ts.batch_at(objective, model or ts.mlp(), x, y, epoch, training)
    _, terms = trainer.losses_of(batch)
    terms = {name: float(ops.convert_to_numpy(term)) for name, term in terms.items()}
    return x, y, batch, terms, np.asarray(batch.logits)
