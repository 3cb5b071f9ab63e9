"""A cohort is dealt out to the simulators: who trains or tests whom, and how users count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from protos.errors import BadInput
from scheduler.rules.exact_sum import scale_exponent
from scheduler.rules.samplers import Round, UserTable
from scheduler.state.day_users import DayUsers
from scheduler.state.open_round import OpenRound, where
from scheduler.state.placement import groups_of, place
from scheduler.state.rounds import TEST, TRAIN, Rules, Share


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

    def deal(
        self, phase: str, at: Round, cohort: list[str], users: UserTable, together: int = 0
    ) -> OpenRound:  # fmt: skip
        """A round ("train") or evaluation ("test") of which nothing has come back yet.

        Args:
            phase: which of the two.
            at: which round.
            cohort: uids.
            users: of the day.
            together: examples of users that a shard tests in one go; 0 for each user by itself.

        Raises:
            BadInput: nobody of a cohort to train counts.
        """
        counts = [users.count(uid) for uid in cohort]
        lanes = list(self.lanes.values())
        if phase == TEST and together:
            return OpenRound(phase, at, cohort, self._in_groups(cohort, counts, lanes, together))
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

    def _in_groups(
        self, cohort: Sequence[str], counts: Sequence[int], lanes: Sequence[int], together: int
    ) -> dict[int, Share]:  # fmt: skip
        """Shares of a test in groups: they are dealt out whole, so who meets whom is the same on all placements."""
        groups = groups_of(cohort, counts, together)
        placed = place([sum(counts[i] for i in group) for group in groups], lanes)
        return {
            rank: Share(
                uids=tuple(cohort[i] for g in mine for i in groups[g]),
                counts=tuple(counts[i] for g in mine for i in groups[g]),
                cohort_size=len(cohort),
                groups=tuple(len(groups[g]) for g in mine),
            )
            for rank, mine in zip(self.lanes, placed, strict=True)
        }

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
