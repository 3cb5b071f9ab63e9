"""The shared parameters cut into parts, one for each simulator of a group.

Every simulator of the group adds up the sums of all in its own part and pushes only
that, and pulls only that and hands it on to the others (a reduce-scatter and an
all-gather).  What goes through the scheduler then no longer grows with the simulators.
The sums are integers, so it makes no difference to a bit where they are added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from protos.codec import Array, Tensors, TensorSpec

# When simulators exchange among themselves: where it pays, or wherever they can, or not at all.
Exchange = Literal["auto", "always", "never"]

# An exchange costs each simulator two more calls to every other one.
_LEAST_SIMULATORS, _LEAST_NUMBERS = 3, 4_000_000


def make_group(streaming: Sequence[int], numbers: int, exchange: Exchange) -> tuple[int, ...]:
    """Which simulators exchange among themselves; empty if each deals with the scheduler alone.

    Args:
        streaming: ranks that reach the parameters by a connection only.
        numbers: elements of all shared parameters.
        exchange: the run's setting.
    """
    pays = len(streaming) >= _LEAST_SIMULATORS and len(streaming) * numbers >= _LEAST_NUMBERS
    return tuple(sorted(streaming)) if exchange == "always" or (exchange == "auto" and pays) else ()


@dataclass(frozen=True)
class _Range:
    """Elements of one parameter, flat."""

    start: int
    stop: int
    dtype: str


class Partition:
    """Which elements of which parameters belong to which simulator.

    The parameters follow each other as one long vector, which is cut into as many
    parts as there are simulators; no part is more than one element longer than another.

    Args:
        specs: of all shared parameters, in their order.
        group: ranks, in the order of their parts.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], group: Iterable[int]) -> None:
        self.group = tuple(group)
        whole = sum(prod(spec.shape) for spec in specs.values())
        cuts = [whole * i // len(self.group) for i in range(len(self.group) + 1)]
        self._ranges: dict[int, dict[str, _Range]] = {rank: {} for rank in self.group}
        begin = 0
        for name, spec in specs.items():
            end = begin + prod(spec.shape)
            for rank, low, high in zip(self.group, cuts, cuts[1:], strict=False):
                start, stop = max(low, begin), min(high, end)
                if start < stop:
                    self._ranges[rank][name] = _Range(start - begin, stop - begin, spec.dtype)
            begin = end

    def specs(self, rank: int, dtype: str | None = None) -> dict[str, TensorSpec]:
        """What a simulator's part looks like: one flat tensor for each parameter it has elements of.

        Args:
            rank: of the group.
            dtype: instead of the parameters' own.
        """
        return {name: TensorSpec(dtype or r.dtype, (r.stop - r.start,)) for name, r in self._ranges[rank].items()}

    def views(self, arrays: Mapping[str, Array], rank: int) -> Tensors:
        """A simulator's part of arrays with the shapes of the parameters, C-contiguous: flat views."""
        return {name: arrays[name].reshape(-1)[r.start : r.stop] for name, r in self._ranges[rank].items()}
