"""One run of certified training on the handwritten digits that ship with the package."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["run"]


def run(
    build: Callable[[Any], Any],
    trained_with: str,
    seed: int,
    *,
    eps: float,
    epochs: int,
    digits: int,
    methods: Sequence[str],
    rate: float = 5e-3,
) -> dict[str, Any]:
    """Trains one network and certifies it.

    Args:
        build: The scores of ten classes as a Keras tensor, from that of the images.
        trained_with: "standard", "ibp" or "crown-ibp".
        seed: Of weights, batches and attacks.
        eps: Radius of the l-inf ball, for pixels in [0, 1].
        epochs: The radius grows in the first two thirds of them.
        digits: How many test digits are certified.
        methods: Bounds, in the order in which they are tried.
        rate: Learning rate of Adam.
    """
    import keras

    import tfcert

    keras.utils.set_random_seed(seed)
    (x, y), (x_test, y_test) = tfcert.datasets.load("digits")
    image = keras.Input(x.shape[1:])
    model = keras.Model(image, build(image))
    region = tfcert.LpBall(eps, clip=(0.0, 1.0))
    ramp = (1, max(2, 2 * epochs // 3))
    objective: Any = {
        "standard": lambda: tfcert.objectives.Standard(),
        "ibp": lambda: tfcert.objectives.IBP(region, ramp=ramp),
        "crown-ibp": lambda: tfcert.objectives.CrownIBP(region, ramp=ramp),
    }[trained_with]()
    trainer = tfcert.CertifiedTrainer(model, objective, seed=seed)
    trainer.compile(keras.optimizers.Adam(rate, global_clipnorm=5.0))
    begin = time.perf_counter()
    trainer.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - begin
    accuracy = float((np.argmax(model.predict(x_test, verbose=0), axis=1) == y_test).mean())
    begin = time.perf_counter()
    some = slice(0, digits)
    result = tfcert.certify(model, x_test[some], y_test[some], region, method=methods, seed=seed)
    verified = {
        name: int(((result.verdict == "verified") & (result.method == name)).sum())
        for name in methods
    }
    return {
        "trained_with": trained_with,
        "seed": seed,
        "eps": eps,
        "accuracy": accuracy,
        "certified_digits": len(result.verdict),
        "verdicts": {
            str(name): int((result.verdict == name).sum()) for name in np.unique(result.verdict)
        },
        "verified_by": verified,
        "training_seconds": round(seconds, 1),
        "certification_seconds": round(time.perf_counter() - begin, 1),
    }
