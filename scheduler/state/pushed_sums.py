"""What simulators push in a round: exact sums of all parameters from each, or a part of them from each of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from protos.codec import Tensors, TensorSpec
from protos.errors import BadInput, WrongState
from scheduler.rules.exact_sum import Sums, share_bound
from scheduler.state.open_round import OpenRound
from scheduler.state.partition import Partition
from scheduler.state.rounds import Share


class PushedSums:
    """The sums of the round that is on.

    Args:
        lanes: shards of each simulator, by rank.
    """

    def __init__(self, lanes: Mapping[int, int]) -> None:
        self._lanes = lanes
        self._sums: list[Sums] = []
        # Of the simulators that exchange among themselves: who has which part, and all parts put together.
        self._parts: Partition | None = None
        self._whole = Sums.whole({})

    def form_group(self, group: Sequence[int], specs: Mapping[str, TensorSpec]) -> None:
        """From now on these simulators exchange among themselves, and each pushes its part of the parameters."""
        self._parts = Partition(specs, group)
        self._whole = Sums.whole({name: np.zeros(spec.shape, np.int64) for name, spec in specs.items()})

    @property
    def group(self) -> tuple[int, ...]:
        """Ranks that exchange among themselves."""
        return () if self._parts is None else self._parts.group

    def part(self, rank: int, params: Tensors) -> Tensors:
        """A simulator's part of the parameters, flat.

        Raises:
            WrongState: it is in no group.
        """
        parts = self._parts_of(rank)
        if parts is None:
            raise WrongState(f"rank {rank} has no part of the parameters: it is in no group that exchanges")
        return parts.views(params, rank)

    def specs(self, rank: int, share: Share, whole: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """What the tensors of a simulator's push must look like; none where nobody has trained.

        Args:
            rank: the simulator.
            share: its share of the round.
            whole: of all shared parameters.
        """
        parts = self._parts_of(rank)
        if parts is not None:
            return parts.specs(rank, "int64") if any(share.sizes) else {}
        return {name: TensorSpec("int64", spec.shape) for name, spec in whole.items() if share.uids}

    def check(self, rank: int, round_: OpenRound, sums: Sequence[Sums], *, shares: bool) -> None:
        """Whether a push can be right.

        Args:
            rank: of the simulator.
            round_: that is on.
            sums: what it has pushed.
            shares: whether there is anything that users share; if not, there may be no sums.

        Raises:
            BadInput: not as many sums as were expected, or of the wrong kind, or some that no users can have.
        """
        share, grouped = round_.shares[rank], self._parts_of(rank) is not None
        users = round_.peer_users if grouped else len(share.uids)
        if bool(sums) != bool(users) and (sums or shares):
            raise BadInput(f"rank {rank} pushed {len(share.uids)} users but {len(sums)} sums")
        if len(sums) > self._lanes[rank]:
            raise BadInput(f"rank {rank} pushed {len(sums)} sums, it has {self._lanes[rank]} shards")
        if grouped and not all(each.streamed for each in sums):
            raise BadInput(f"rank {rank} pushed its shards' own sums; those of its group are expected")
        for each in sums:
            each.check(share_bound(users, len(round_.cohort)))

    def add(self, rank: int, new: Sums) -> None:
        """Keeps a push until the last is in; streamed ones are added up, so that memory does not grow with them."""
        parts = self._parts_of(rank)
        if parts is not None:
            for name, target in parts.views(self._whole.totals, rank).items():
                target[...] = new.totals[name]
            return
        for held in self._sums:
            if held.streamed and new.streamed:
                for name, total in held.totals.items():
                    np.add(total, new.totals[name], out=total)
                return
        self._sums.append(new)

    def take(self, round_: OpenRound) -> list[Sums]:
        """All sums of a round that is complete; those of the next one come after."""
        taken, self._sums = self._sums, []
        if round_.peer_users:
            taken.append(self._whole)
        return taken

    def _parts_of(self, rank: int) -> Partition | None:
        """None if a simulator deals with the scheduler alone."""
        return self._parts if rank in self.group else None
