"""The layers of a model as algorithms ask for them: the head, what lies below it, batch norm."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from protos.codec import TensorSpec
from protos.errors import BadInput

Specs: TypeAlias = Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Layers:
    """All arrays of the model, private ones too, told apart by the layer that they are of.

    A layer's arrays have its name before theirs: "out.weight" and "out.bias" are of the layer "out".

    Attributes:
        specs: of all parameters and floating-point buffers, in the model's order.
        trains: names of the parameters that have gradients, in the model's order.
        norms: names of the arrays of batch norm layers, their running means and variances among them.
    """

    specs: Specs
    trains: Sequence[str]
    norms: Collection[str] = ()

    def head(self, pattern: str = "") -> tuple[str, ...]:
        """Names of the head's parameters, in the model's order.

        Args:
            pattern: of their names, as 'out.*'; if empty, the head is the layer of the last parameter.

        Raises:
            BadInput: the pattern matches no parameter that trains, or no parameter is left below the head.
        """
        if not self.trains:
            raise BadInput("the model has no parameter that trains, and so no head")
        last = layer_of(self.trains[-1])
        found = tuple(n for n in self.trains if (fnmatchcase(n, pattern) if pattern else layer_of(n) == last))
        if not found:
            raise BadInput(f"head={pattern!r} matches no parameter; the model trains {', '.join(self.trains)}")
        if len(found) == len(self.trains):
            raise BadInput(
                f"the head ({', '.join(found)}) is all that the model trains: there is no representation below it; "
                "take a model with more layers, or an algorithm without a head"
            )
        return found

    def base(self, pattern: str = "") -> tuple[str, ...]:
        """Names of the parameters below the head, in the model's order; arguments and errors as of `head`."""
        head = self.head(pattern)
        return tuple(name for name in self.trains if name not in head)

    def below(self, pattern: str = "") -> tuple[str, ...]:
        """Names of all arrays of the layers below the head, buffers too; arguments and errors as of `head`."""
        layers = {layer_of(name) for name in self.head(pattern)}
        return tuple(name for name in self.specs if layer_of(name) not in layers)

    def need_norms(self) -> tuple[str, ...]:
        """Names of batch norm's arrays.

        Raises:
            BadInput: there is none.
        """
        if not self.norms:
            raise BadInput("the model has no batch norm layer, which users would keep to themselves")
        return tuple(name for name in self.specs if name in self.norms)

    def features(self, pattern: str = "") -> tuple[int, int]:
        """How many features go into the head and how many classes come out of it.

        Raises:
            BadInput: as of `head`; or the head does not begin with a linear layer's matrix.
        """
        name = self.head(pattern)[0]
        shape = self.specs[name].shape
        if len(shape) != 2:
            raise BadInput(
                f"the head begins with {name!r} of shape {list(shape)}, where a linear layer's matrix of features and "
                "classes is asked for; say which it is by head='...'"
            )
        return shape[0], shape[1]


def layer_of(name: str) -> str:
    """The name of the layer that a parameter or buffer is of, "" for the model itself."""
    return name.rpartition(".")[0]
