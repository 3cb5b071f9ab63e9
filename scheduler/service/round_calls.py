"""The plan, the days' users and the rounds, as simulators ask for them and report them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from protos.codec import Tensors
from protos.errors import WrongState
from scheduler.rules.exact_sum import Sums
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round
from scheduler.service.live_state import LiveState, check_near
from scheduler.service.notifier import Notifier
from scheduler.state.coming_rounds import MAX_AHEAD
from scheduler.state.plan import Stage
from scheduler.state.read_users import ReadUsers
from scheduler.state.round_state import RoundState
from scheduler.state.rounds import Decision, RoundEnd, RoundRecord, Share, Timings
from scheduler.state.stopping import Stopping


class RoundCalls:
    """What simulators do in a run's days.

    Args:
        live: the state.
        notifier: is told of each round.
        stopping: decides at the end of each round whether it was the last.
        check_day: raises if a date is no day of the run.
        decide: asked with the lock held after each round and test: whether the run goes on, and keeps its parameters.
    """

    def __init__(
        self, live: LiveState, notifier: Notifier, stopping: Stopping, check_day: Callable[[str], None],
        decide: Callable[[RoundRecord], Decision] | None = None,
    ) -> None:  # fmt: skip
        self._live, self._run = live, live.run
        self._notifier, self._stopping, self._check_day = notifier, stopping, check_day
        self._decide = decide
        # After how many rounds a simulator knows what comes next.
        self._told_after = -1
        # The last test.
        self._tests: dict[Round, RoundRecord] = {}

    # -- the plan ----------------------------------------------------------------

    def next_stages(self, rank: int, step: int) -> list[Stage]:
        """What comes next for a simulator that is done with `step` rounds of the run; see `Plan.next_stages`."""
        with self._live.held() as state:
            self._run.check_rank(rank)
            if not state.plan.start <= step <= state.step:
                raise WrongState(f"rank {rank} asked what comes after {step} rounds of the run, {state.step} are done")
            self._told_after = max(self._told_after, step)
            return state.plan.next_stages(step)

    def ask_test(self) -> None:
        """See `Coordinator.ask_test`."""
        with self._live.held() as state:
            if self._told_after >= state.step:
                raise WrongState(f"a test after {state.step} rounds was asked for too late: simulators have gone on")
            state.plan = state.plan.ask_test(state.step)
            self._notifier.note_test(state.step)

    def check_done(self, rank: int) -> None:
        """Raises WrongState if the plan has something yet for a simulator that would leave."""
        with self._live.held() as state:
            if state.step < state.plan.steps:
                done = f"{state.step} of {state.plan.steps} rounds of the run are done"
                raise WrongState(f"rank {rank} cannot leave: {done}")
            for date in state.plan.tests(state.step)[-1:]:
                if not any(at.date == date and at.step == state.step for at in self._tests):
                    raise WrongState(f"rank {rank} cannot leave: the test on {date} is still to come")
            if self._notifier.lacks(rank, state.step):
                raise WrongState(f"rank {rank} cannot leave: its part of the last checkpoint is still to come")

    # -- users -------------------------------------------------------------------

    def add_users(self, rank: int, date: str, split: str, users: ReadUsers) -> list[str]:
        """See `RoundState.add_users`; returns, when all simulators have told theirs, whom this one has to weigh."""
        with self._live.turn(rank) as state:
            self._check_day(date)
            state.add_users(rank, date, split, users)
            self._run.wake()
            self._run.wait(lambda: state.users.ready(date, split))
            return state.users.to_weigh(rank, date, split)

    def add_weights(self, rank: int, date: str, weights: Mapping[str, float]) -> None:
        """See `RoundState.add_weights`."""
        with self._live.held() as state:
            state.add_weights(rank, date, weights)
            self._run.wake()

    def check_teller(self, rank: int, date: str, split: str) -> None:
        """Whether a simulator may tell its users of a day, which must be one of the run; raises as `add_users`."""
        with self._live.held() as state:
            self._check_day(date)
            self._run.check_rank(rank)
            state.users.check_teller(rank, date, split)

    def check_weigher(self, rank: int, date: str) -> None:
        """See `DayUsers.check_weigher`."""
        with self._live.held() as state:
            self._run.check_rank(rank)
            state.users.check_weigher(rank, date)

    # -- rounds ------------------------------------------------------------------

    def share_size(self, rank: int, at: Round, phase: str) -> int:
        """See `RoundState.share_size`."""
        with self._live.held() as state:
            return state.share_size(rank, at, phase)

    def train_shares(self, rank: int, at: Round, rounds: int, kind: str | None) -> dict[int, Share]:
        """See `RoundState.train_shares`; waits until the first round is near and the day's users are weighed."""
        with self._live.turn(rank) as state:
            check_near(state, at.step, state.plan.steps - 1)
            # A simulator that has pushed a round may ask for the next before all have.
            self._run.wait(lambda: state.step + MAX_AHEAD > at.step and state.users.weighed(at.date))
            return state.train_shares(rank, at, rounds, kind)

    def push(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, sums: Sequence[Sums]) -> None:
        """See `RoundState.push`."""
        with self._live.held() as state:
            record = state.push(rank, at, results, timings, sums)
            if record is not None:
                self._keep(record, state)

    def end(self, rank: int, at: Round) -> RoundEnd:
        """Returns when a round is over."""
        with self._live.turn(rank) as state:
            check_near(state, at.step, state.plan.steps - 1)
            self._run.wait(lambda: state.step > at.step)
            after = at.step + 1
            self._told_after = max(self._told_after, after)
            return RoundEnd(self._notifier.checkpoint_step == after, after in state.plan.asked)

    def replace(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, params: Tensors) -> None:
        """See `RoundState.replace`."""
        with self._live.held() as state:
            self._keep(state.replace(rank, at, results, timings, params), state)

    def test_share(self, rank: int, at: Round, together: int) -> Share:
        """See `RoundState.test_share`; waits until the rounds before it are done."""
        with self._live.turn(rank) as state:
            check_near(state, at.step, state.plan.steps)
            self._run.wait(lambda: state.step >= at.step)
            # A test is not begun.
            self._stopping.settle()
            self._stopping.check()
            return state.test_share(rank, at, together)

    def report_test(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings) -> RoundRecord:
        """See `RoundState.report_test`; returns when all simulators have reported."""
        with self._live.turn(rank) as state:
            record = state.report_test(rank, at, results, timings)
            if record is not None:
                self._tests = {at: record}
                self._keep(record, state, ends_round=False)
            self._run.wait(lambda: at in self._tests)
            return self._tests[at]

    def _keep(self, record: RoundRecord, state: RoundState, *, ends_round: bool = True) -> None:
        """Has the listener told of a round, without the simulators waiting for it to write.

        Args:
            record: of the round or evaluation.
            state: after it.
            ends_round: whether it was a round, after which a checkpoint may be due.
        """
        decision = Decision() if self._decide is None else self._decide(record)
        if decision.keep:
            record = dataclasses.replace(record, kept=state.model.copies())
        # Before the run may stop: what is decided then is whether all is saved that was begun.
        self._notifier.add(record, state if ends_round else None)
        if decision.test and decision.stop is None and ends_round and state.plan.has_test(state.step):
            self.ask_test()
        if decision.stop is not None:
            self._stopping.finish(decision.stop)
        if ends_round:
            self._stopping.settle()
        self._run.wake()
        # A disk that is slower than the rounds holds them up, and memory does not grow.
        self._run.wait(lambda: self._notifier.has_room)
