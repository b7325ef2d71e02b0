"""Bound methods: how intermediate bounds and backward sweeps are combined.

Every method is a small object with its options; the names that ``tfcert.bound`` accepts stand for
their defaults.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

__all__ = [
    "IBP",
    "AlphaCrown",
    "Crown",
    "CrownIBP",
    "FastLin",
    "Lipschitz",
    "Method",
    "get",
    "name_of",
]

_SLOPES = ("adaptive", "zero", "one", "same")


@dataclasses.dataclass(frozen=True)
class Method:
    """Options that all methods share.

    Args:
        float_safe: Whether the bounds hold for the network as executed in float32, in any order
            of summation, instead of in real arithmetic. For affine and piecewise-linear layers of
            Keras. The bounds are float64, and infinite where an execution may overflow. They cover
            every execution whose operations are IEEE float32 or better, with or without fused
            operations and flushing of denormal numbers, as TensorFlow's and XLA's on a CPU. They
            do not cover TF32, bfloat16 or float16 inside of products, fast-math compilation, and
            convolutions by Winograd's or Fourier transforms, which cuDNN may choose on a GPU.
            Where such a setting can be seen, it is refused.
        max_memory: Bytes that the working set may take; larger jobs are cut into chunks.
        jit_compile: Whether to compile with XLA (TensorFlow backend; JAX always does).
    """

    float_safe: bool = dataclasses.field(default=False, kw_only=True)
    max_memory: int = dataclasses.field(default=2 << 30, kw_only=True)
    jit_compile: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.max_memory >= 1 << 20:
            raise ValueError(
                f"`max_memory` must be at least 1 MiB, in bytes. Received: {self.max_memory!r}."
            )

    def get_config(self) -> dict[str, Any]:
        """The options, for Keras's saving."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class IBP(Method):
    """Interval bound propagation: the cheapest and loosest.

    Reference: Gowal et al., 2018, https://arxiv.org/abs/1810.12715
    """


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Lipschitz(Method):
    """The margin rule of l-inf-distance networks: one forward pass.

    ``f(x) -/+ L r``, where L is the product of the l-inf Lipschitz factors that the layers declare
    and r the largest distance, over coordinates, of a point of the region from x: eps for an l-inf
    ball. A margin ``m`` at x becomes ``m - 2 L r``. Never tighter than IBP on distance networks.
    Layers that declare no factor are refused, as dense ones and distance layers at a finite p.

    Reference: Zhang et al., 2022, https://arxiv.org/abs/2110.06850
    """


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Backward(Method):
    """What methods with a backward sweep share.

    Args:
        slope: The lower line of an unstable ReLU: "adaptive" (1 where u > -l, else 0), "zero",
            "one", or "same" (parallel to the upper one).
        intersect: Whether the result is intersected with the interval bounds of the output. Both
            are sound, so this only tightens; training objectives that are defined by the backward
            bound alone turn it off.
    """

    slope: str = "adaptive"
    intersect: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slope not in _SLOPES:
            raise ValueError(f"`slope` must be one of {_SLOPES}. Received: slope={self.slope!r}.")


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class CrownIBP(Backward):
    """Interval bounds for the hidden layers, one backward sweep for the outputs.

    Reference: Zhang et al., 2019, https://arxiv.org/abs/1906.06316
    """


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class Crown(Backward):
    """Backward sweeps for the outputs and for every neuron whose relaxation profits.

    Reference: Zhang et al., 2018, https://arxiv.org/abs/1811.00866

    Args:
        chunk: Neurons swept in one turn; None: chosen from the network and ``max_memory``.
    """

    chunk: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"`chunk` must be a positive integer. Received: chunk={self.chunk}.")


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class FastLin(Crown):
    """CROWN with both lines of a ReLU parallel, in hidden layers too.

    Reference: Weng et al., 2018, https://arxiv.org/abs/1804.09699
    """

    slope: str = "same"


@keras.saving.register_keras_serializable(package="tfcert.methods")
@dataclasses.dataclass(frozen=True)
class AlphaCrown(Crown):
    """CROWN, then gradient ascent on the slopes of the relaxations, each row of its own.

    Never looser than CROWN: the best bound of each entry is kept.

    Reference: Xu et al., 2021, https://arxiv.org/abs/2011.13824

    Args:
        iterations: Number of gradient steps.
        learning_rate: Of Adam, at the first step.
        decay: Factor on the learning rate after each step.
        optimize_intermediate: Whether the bounds of hidden neurons are optimised too, each neuron
            for itself. Much slower, and much tighter on deep networks.
    """

    iterations: int = 20
    learning_rate: float = 0.1
    decay: float = 0.98
    optimize_intermediate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1 or not self.learning_rate > 0 or not 0 < self.decay <= 1:
            raise ValueError(
                "`iterations` must be positive, `learning_rate` > 0 and `decay` in (0, 1]. "
                "Received: "
                f"iterations={self.iterations}, learning_rate={self.learning_rate}, "
                f"decay={self.decay}."
            )


_NAMED = {
    "ibp": IBP(),
    "lipschitz": Lipschitz(),
    "crown-ibp": CrownIBP(),
    "fast-lin": FastLin(),
    "crown": Crown(),
    "alpha-crown": AlphaCrown(),
}


def get(method: Any) -> Method:
    """The method object for a name, or the object itself."""
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in _NAMED:
        return _NAMED[method]
    raise ValueError(
        f"`method` must be one of {', '.join(map(repr, _NAMED))} or an object of tfcert.methods. "
        f"Received: method={method!r}."
    )


def name_of(method: Method) -> str:
    """The name for the kind of a method, whatever its options; for new kinds that of its class."""
    kinds = {type(known): name for name, known in _NAMED.items()}
    return kinds.get(type(method), type(method).__name__)
