"""Memory that a shard shares with its simulator: what a round begins with, and the sums of what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from protos.codec import Array, TensorSpec
from protos.errors import BadInput
from protos.shared_arrays import MemoryHandle, SharedArrays
from scheduler.rules.algorithm import Group
from scheduler.rules.exact_sum import Sums, sum_specs
from simulator.worker.round_arrays import RoundArrays, full_name


class RoundMemory:
    """The memory, as laid out by the simulator.

    Args:
        params_fd: file of what a round begins with.
        sums_fd: file of this shard's sums.
        arrays: of the model by name, of a group as "group/name".
        groups: of the algorithm.

    Attributes:
        params: what a round begins with.
        begins: the same, read-only and by groups.
        sums: of this shard.
    """

    def __init__(
        self, params_fd: int, sums_fd: int, arrays: Mapping[str, TensorSpec], groups: Mapping[str, Group]
    ) -> None:
        self._groups = groups
        self.sums = Sums.of(SharedArrays(sums_fd, sum_specs(arrays)).arrays, arrays)
        self._hold(SharedArrays(params_fd, arrays))

    def _hold(self, params: SharedArrays) -> None:
        self.params = params
        self.begins = RoundArrays(params.arrays, {name: group.specs for name, group in self._groups.items()})

    def use(self, handle: MemoryHandle) -> None:
        """Has rounds begin with what is in other memory: the scheduler's."""
        specs = {name: TensorSpec.of(value) for name, value in self.params.arrays.items()}
        self._hold(SharedArrays.open(handle, specs))

    def write_model(self, names: Iterable[str], read: Callable[[str], Array]) -> None:
        """Writes the initial values of the model's shared parameters.

        Args:
            names: of the parameters.
            read: one of the model.
        """
        for name in names:
            self.params[name][...] = read(name)

    def write_starts(self) -> None:
        """Writes what arrays of groups begin with.

        Raises:
            BadInput: an algorithm's start is no array of its group.
        """
        for group, told in self._groups.items():
            for name, value in told.start.items():
                if name not in told.specs or TensorSpec.of(value) != told.specs[name]:
                    has = told.specs.get(name, "no array of that name")
                    raise BadInput(f"group {group!r}: its start {name!r} is {TensorSpec.of(value)}, it has {has}")
                self.params[full_name(group, name)][...] = value
