"""The round that is due and those after it whose users are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protos.errors import BadInput, WrongState
from scheduler.rules.samplers import Round, Sampler, UserTable, check_cohort
from scheduler.state.day_users import DayUsers
from scheduler.state.open_round import OpenRound, where
from scheduler.state.plan import Plan
from scheduler.state.rounds import TRAIN

# Rounds whose users may be asked for at once, and before they are due.
MAX_AHEAD = 32


@dataclass
class ComingRounds:
    """Samples rounds as they are asked for; each once.

    Attributes:
        sampler: of the cohorts.
        users: of the days.
        begin: deals a cohort out.
    """

    sampler: Sampler
    users: DayUsers
    begin: Callable[[Round, list[str], UserTable], OpenRound]
    _known: dict[int, OpenRound] = field(default_factory=dict)

    def due(self, step: int) -> OpenRound | None:
        """The round that is due, if its users are known."""
        return self._known.get(step)

    def forget(self, step: int) -> None:
        """It is over."""
        del self._known[step]

    def ask(self, at: Round, rounds: int, due: int, plan: Plan) -> dict[int, OpenRound]:
        """Consecutive rounds, by step.

        Args:
            at: the first of them.
            rounds: how many.
            due: the round of the run that is due.
            plan: of the run.

        Raises:
            BadInput: too many at once.
            NotFound: the day's users are not known.
            WrongState: they are not rounds of the day that is on, or far off.
        """
        self._check(at, rounds, due, plan)
        for k in range(rounds):
            if at.step + k not in self._known:
                self._known[at.step + k] = self._sample(Round(at.seed, at.date, at.round + k, at.step + k))
        return {step: self._known[step] for step in range(at.step, at.step + rounds)}

    def _check(self, at: Round, rounds: int, due: int, plan: Plan) -> None:
        """Refuses what would put rounds into the state that never come."""
        if not 0 < rounds <= MAX_AHEAD:
            raise BadInput(f"{rounds} rounds were asked for at once; 1 to {MAX_AHEAD} are allowed")
        self.users.table(at.date, TRAIN)
        if not due <= at.step < due + MAX_AHEAD:
            raise WrongState(f"round {at.step} of the run was asked for, {due} is due")
        plan.check_rounds(at, rounds)
        if at.step not in plan.day_steps(due):
            raise WrongState(f"{where(at)} was asked for, round {due} of the run is due, on an earlier day")

    def _sample(self, at: Round) -> OpenRound:
        users = self.users.table(at.date, TRAIN)
        cohort = list(self.sampler.sample(users, at))
        check_cohort(cohort, users.uids, self.sampler, at)
        return self.begin(at, cohort, users)
