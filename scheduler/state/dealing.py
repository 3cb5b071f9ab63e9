"""A cohort is dealt out to the simulators: who trains or tests whom, and how users count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from protos.errors import BadInput
from scheduler.rules.exact_sum import scale_exponent
from scheduler.rules.samplers import Round, UserTable
from scheduler.state.day_users import DayUsers
from scheduler.state.open_round import OpenRound, where
from scheduler.state.placement import place
from scheduler.state.rounds import TRAIN, Rules, Share


@dataclass(frozen=True)
class Dealing:
    """Deals cohorts out.

    Attributes:
        rules: of the run.
        lanes: shards of each simulator, by rank.
        users: of the days.
        group: tells the simulators that exchange among themselves.
    """

    rules: Rules
    lanes: Mapping[int, int]
    users: DayUsers
    group: Callable[[], Sequence[int]]

    def deal(self, phase: str, at: Round, cohort: list[str], users: UserTable) -> OpenRound:
        """A round ("train") or evaluation ("test") of which nothing has come back yet.

        Raises:
            BadInput: nobody of a cohort to train counts.
        """
        counts = [users.count(uid) for uid in cohort]
        lanes = list(self.lanes.values())
        # Without federation one shard trains all, in the cohort's order.
        in_order = phase == TRAIN and not self.rules.federated
        placed = [list(range(len(cohort))), *([] for _ in lanes[1:])] if in_order else place(counts, lanes)
        weights = self._weights(at, cohort) if phase == TRAIN and self.rules.federated else ()
        exponent = scale_exponent(weights) if weights else 0
        by_rank = dict(zip(self.lanes, placed, strict=True))
        sizes = tuple(len(by_rank[rank]) for rank in self.group())
        shares = {
            rank: Share(
                uids=tuple(cohort[i] for i in mine),
                counts=tuple(counts[i] for i in mine),
                exponent=exponent,
                cohort_size=len(cohort),
                sizes=sizes,
                weights=tuple(weights[i] for i in mine) if weights else (),
            )
            for rank, mine in by_rank.items()
        }
        return OpenRound(phase, at, cohort, shares)

    def _weights(self, at: Round, cohort: Sequence[str]) -> tuple[float, ...]:
        """The weights of a cohort in the mean of updates."""
        if not self.rules.weighs:
            return (1.0,) * len(cohort)
        weights = self.users.weights(at.date, cohort)
        if not any(weights):
            raise BadInput(
                f"{where(at)}: all {len(cohort)} users of the cohort have weight 0, so there is no mean of their "
                "deltas; the trainer's weight must be above 0 for some of any cohort, or --sample-num larger"
            )
        return weights
