"""Several inputs as an exported model takes them: each by its name, and radii beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfcert.entering.joining import Joined, product_of
from tfcert.regions import Product
from tfcert.types import Tensor

__all__ = ["ServedInputs"]


class ServedInputs:
    """The inputs of a model with several ones, as arguments of a signature.

    Args:
        door: How the inputs become one vector.
        region: The region of each, as the user gave it.

    Attributes:
        given: The region of each input.
        region: The region of the vector.
        radii: The names of the arguments that hold a radius: ``eps_<name>`` for each input whose
            region has one.
    """

    def __init__(self, door: Joined, region: Any):
        self._door, self.given = door, product_of(door.names, region)
        self.region = door.region(self.given)
        names = [key if isinstance(key, str) else door.names[key] for key in self.given.sized()]
        self.radii = [f"eps_{name}" for name in names]

    @property
    def model(self) -> Any:
        """The model of the vector."""
        return self._door.model

    def specs(self) -> dict[str, tuple[tuple[int | None, ...], str]]:
        """Shape and type of each input by its name; raises where a name is none of an argument."""
        names = self._door.names
        wrong = [name for name in names if not name.isidentifier() or name in self.radii]
        if wrong:
            raise ValueError(
                "`model` must name its inputs with letters, digits and underscores alone, as "
                "signatures do, and none like a radius, eps_<name of an input>: "
                f"keras.Input(shape, name=...). Received: inputs named {wrong}."
            )
        pairs = zip(names, self._door.tensors, strict=True)
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in pairs}

    def vector(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The inputs, by their names, as one vector."""
        return self._door.vector({name: inputs[name] for name in self._door.names})

    def resized(self, radii: Sequence[Tensor]) -> Product:
        """The region of the vector with other radii, in the order of ``self.radii``."""
        sized = dict(zip(self.given.sized(), radii, strict=True))
        if self.given.names is not None:
            return self._door.region(self.given.with_eps(sized))
        sizes = [sized.get(number) for number in range(len(self.given.regions))]
        return self._door.region(self.given.with_eps(sizes))

    def facts(self) -> dict[str, Any]:
        """What the facts of an export tell of the inputs."""
        told = {
            name: {"shape": list(tensor.shape[1:]), "dtype": tensor.dtype}
            for name, tensor in zip(self._door.names, self._door.tensors, strict=True)
        }
        return {"inputs": told}
