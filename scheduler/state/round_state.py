"""What the scheduler knows and decides, without gRPC, threads or files.

One object holds the day's users, the global parameters and the round under way.
A round goes: `train_shares` for every simulator, `push` from every simulator; the
last push makes the server step and yields a `RoundRecord`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from protos.codec import Tensors, TensorSpec
from protos.errors import BadInput, NotFound, WrongState
from scheduler.rules.exact_sum import Sums
from scheduler.rules.held_out import as_new, check_not_new
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round, UserTable
from scheduler.rules.step import Step
from scheduler.state.checkpoints import Snapshot
from scheduler.state.coming_rounds import ComingRounds
from scheduler.state.day_users import DayUsers
from scheduler.state.dealing import Dealing
from scheduler.state.global_model import GlobalModel
from scheduler.state.open_round import OpenRound, where
from scheduler.state.partition import make_group
from scheduler.state.plan import Plan
from scheduler.state.pushed_sums import PushedSums
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import TEST, TRAIN, RoundRecord, Rules, Share, Timings

Clock = Callable[[], float]


class RoundState:
    """The scheduler's state; not thread-safe, the caller holds a lock.

    Args:
        rules: of the run.
        lanes: shards of each simulator, by rank.
        plan: of the run.
        clock: seconds; replaced in tests.
    """

    def __init__(self, rules: Rules, lanes: Mapping[int, int], plan: Plan, clock: Clock = time.perf_counter) -> None:
        self.rules, self.plan = rules, plan
        self.model = GlobalModel(rules)
        self.step = 0
        self._lanes = dict(sorted(lanes.items()))
        self._clock = clock
        self.users = DayUsers(tuple(self._lanes), rules.weighs, rules.held_out)
        self._pushed = PushedSums(self._lanes)
        self._dealing = Dealing(rules, self._lanes, self.users, lambda: self._pushed.group)
        self._coming = ComingRounds(rules.sampler, self.users, partial(self._dealing.deal, TRAIN))
        self._test: OpenRound | None = None
        self._last_end: float | None = None

    # -- users ---------------------------------------------------------------

    def add_users(self, rank: int, date: str, split: str, users: ReadUsers) -> None:
        """Takes what one simulator has read of a day.

        Raises:
            AlreadyDone: the simulator has reported this day and split.
            BadInput: a user without examples, weights where none are, an unknown split; or, with the
                last report, a day on which a round cannot be sampled.
        """
        self.check_rank(rank)

        def check(table: UserTable) -> None:
            if split == TRAIN:
                try:
                    self.rules.sampler.check(table, date, self.plan.due_on(date, self.step))
                except BadInput as error:
                    if not self.rules.hold_out:
                        raise
                    said = f"--hold-out-users {self.rules.hold_out} leaves {len(table.uids)} users to train"
                    raise BadInput(f"{error} ({said})") from error

        if self.users.add(rank, date, split, users, check):
            # Loading is no part of the round that follows it.
            self._last_end = None

    def add_weights(self, rank: int, date: str, weights: Mapping[str, float]) -> None:
        """Takes weights; raises as `DayUsers.add_weights`."""
        self.check_rank(rank)
        self.users.add_weights(rank, date, weights)
        self._last_end = None

    # -- parameters ----------------------------------------------------------

    def form_group(self, streaming: Sequence[int]) -> tuple[int, ...]:
        """Decides which simulators exchange among themselves, before any users are known.

        Args:
            streaming: ranks that reach the parameters by a connection only.

        Returns:
            Their ranks; none if each deals with the scheduler alone.
        """
        self.check_unbegun()
        specs = self.model.specs()
        numbers = sum(math.prod(spec.shape) for spec in specs.values())
        group = make_group(streaming, numbers, self.rules.exchange) if self.rules.federated else ()
        if group:
            self._pushed.form_group(group, specs)
        return group

    def check_unbegun(self) -> None:
        """Raises WrongState if it is too late to form a group."""
        if self.users.begun:
            raise WrongState("simulators choose how they exchange before any day is loaded")

    def part(self, rank: int) -> Tensors:
        """A simulator's part of the shared parameters, flat; raises WrongState if it is in no group."""
        return self._pushed.part(rank, self.model.need_params())

    def push_specs(self, rank: int, at: Round) -> dict[str, TensorSpec]:
        """What the tensors of a simulator's push must look like; none where nobody has trained. Raises as `push`."""
        share = self._on(self._open, rank, at).share_of(rank, at)
        return self._pushed.specs(rank, share, self.model.specs())

    # -- checkpoints -----------------------------------------------------------

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot; see `GlobalModel.restore`.

        Raises:
            WrongState: the run has begun.
        """
        if self.model.params is not None or self.users.begun:
            raise WrongState("a checkpoint can be restored only before anything else")
        self.step, self.plan = snapshot.step, self.plan.go_on(snapshot.step, tests=snapshot.tests)
        self.model.restore(snapshot)

    # -- rounds --------------------------------------------------------------

    def train_shares(self, rank: int, at: Round, rounds: int = 1, kind: str | None = None) -> dict[int, Share]:
        """The simulator's shares of the cohorts of consecutive rounds; the first to ask for the one due begins it.

        A cohort is known before its round: a simulator asks while its shards still train,
        and for many short rounds at once.

        Args:
            rank: the simulator.
            at: the first of the rounds.
            rounds: how many.
            kind: the sampler's name the caller relies on, if any.

        Returns:
            Shares by step.

        Raises:
            WrongState: the rounds are not those that are due, users are not weighed yet, or the run has
                another sampler.
            NotFound: the day's users are not known.
            BadInput: too many rounds at once.
        """
        self.check_rank(rank)
        if kind is not None and self.rules.sampler.name != kind:
            raise WrongState(f"the run samples with {self.rules.sampler.name!r}, not {kind!r}")
        coming = self._coming.ask(at, rounds, self.step, self.plan)
        if at.step == self.step and coming[at.step].started is None:
            coming[at.step].started = self._clock() if self._last_end is None else self._last_end
        return {step: round_.shares[rank] for step, round_ in coming.items()}

    @property
    def _open(self) -> OpenRound | None:
        """The round that is due, if its users are known."""
        return self._coming.due(self.step)

    def push(
        self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, sums: Sequence[Sums]
    ) -> RoundRecord | None:
        """Adds a simulator's exact sums; the last one makes the server step.

        Args:
            rank: the simulator.
            at: the round they belong to.
            results: of all users of its share.
            timings: where its shards' time went.
            sums: of its shards, or one of them all; none if its share was empty.  Of a simulator of a group one,
                that of the whole group in its part.  Read when the last push is in.

        Returns:
            The finished round, if this was the last push.

        Raises:
            WrongState, AlreadyDone, BadInput: and nothing has changed.
        """
        round_ = self._on(self._open, rank, at)
        round_.check_results(rank, at, results)
        if not self.rules.federated:
            raise WrongState("this run trains without federation: it takes parameters, not deltas")
        self._pushed.check(rank, round_, sums, shares=bool(self.model.need_params()))
        arrived = round_.arrive(rank, results, timings, self._clock())
        for each in sums:
            self._pushed.add(rank, each)
        return self._finish_round(round_) if arrived else None

    def replace(
        self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, params: Tensors
    ) -> RoundRecord:
        """Takes the parameters after a round that was trained without federation.

        Raises:
            WrongState, AlreadyDone, BadInput: and nothing has changed.
        """
        round_ = self._on(self._open, rank, at)
        round_.check_results(rank, at, results)
        if self.rules.federated:
            raise WrongState("this run is federated: it takes deltas, not parameters")
        if not results:
            raise WrongState(f"rank {rank} has no share of {where(at)}")
        for name, value in params.items():
            if not np.isfinite(value).all():
                raise BadInput(f"{where(at)}: parameter {name!r} holds NaN or infinity; lower --lr")
        for other in round_.shares:
            round_.arrive(
                other, results if other == rank else (), timings if other == rank else Timings(), self._clock()
            )
        self.model.replace(params)
        return self._close_round(round_)

    # -- evaluation ----------------------------------------------------------

    def test_share(self, rank: int, at: Round, together: int = 0) -> Share:
        """The simulator's share of the users to test; raises as `train_shares`.

        Args:
            rank: of the simulator.
            at: the test.
            together: see `Dealing.deal`; the first to ask decides, and all build the same model.
        """
        self.check_rank(rank)
        # One that was asked for and never held is no longer on when a round has ended.
        if self._test is None or self._test.at.step < self.step:
            if at.round != at.step:
                raise WrongState(f"a test after {at.step} rounds was asked for as the one after {at.round}")
            if at.step != self.step or (self._open is not None and self._open.arrived):
                raise WrongState(f"a test after {at.step} rounds was asked for, {self.step} are done")
            users = self.users.table(at.date, TEST)
            if at.date not in self.plan.tests(at.step):
                raise WrongState(f"a test on {at.date} after {at.step} rounds was asked for, which is not planned")
            parts = [part for part in self.users.parts(at.date, TEST) if part.uids]
            cohort = [uid for part in parts for uid in self.rules.test_sampler.sample(part, self.rules.seed, at.date)]
            self._test = self._dealing.deal(TEST, at, cohort, users, together)
            self._test.started = self._clock()
        if self._test.at != at:
            raise WrongState(f"a test at {where(at)} was asked for during the one at {where(self._test.at)}")
        return self._test.shares[rank]

    def report_test(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings) -> RoundRecord | None:
        """Takes a simulator's evaluation; the last one gives the record."""
        test = self._on(self._test, rank, at)
        test.check_results(rank, at, results)
        results = self._with_new(results)
        if not test.arrive(rank, results, timings, self._clock()):
            return None
        end = self._clock()
        record = test.record(end, self._lanes)
        # Testing is no part of the round that follows it.
        self._test = self._last_end = None
        if self._open is not None:
            self._open.started = end
        return record

    @property
    def trains(self) -> bool:
        """Whether a round is under way that will end."""
        return self._test is None and self._open is not None and self._open.started is not None

    # -- inside --------------------------------------------------------------

    def check_rank(self, rank: int) -> None:
        """Raises NotFound if a rank is no simulator."""
        if rank not in self._lanes:
            raise NotFound(f"rank {rank} is not a simulator of this run ({sorted(self._lanes)})")

    def share_size(self, rank: int, at: Round, phase: str) -> int:
        """How many users a simulator reports in the round or evaluation that is on; raises as `push`."""
        round_ = self._open if phase == TRAIN else self._test
        return len(self._on(round_, rank, at).share_of(rank, at).uids)

    def _on(self, round_: OpenRound | None, rank: int, at: Round) -> OpenRound:
        """The round or evaluation that is on."""
        self.check_rank(rank)
        if round_ is None:
            raise WrongState(f"results for {where(at)} came, but no round is on")
        return round_

    def _with_new(self, results: Sequence[UserResult]) -> Sequence[UserResult]:
        """Results of a test, with those of users that are held out under names of their own.

        Raises:
            BadInput: a metric has such a name already.
        """
        held_out = self.rules.held_out
        if held_out is None:
            return results
        for result in results:
            check_not_new(result.uid, result.metrics)
        return [
            replace(result, metrics=as_new(result.metrics), new=True) if result.uid in held_out else result
            for result in results
        ]

    def _finish_round(self, round_: OpenRound) -> RoundRecord:
        at = round_.at
        population = len(self.users.table(at.date, TRAIN).uids)
        step = Step(at.seed, at.date, at.round, at.step, len(round_.cohort), population, round_.scalars)
        self.model.move(self._pushed.take(round_), round_.weights, step)
        return self._close_round(round_)

    def _close_round(self, round_: OpenRound) -> RoundRecord:
        self.step += 1
        # Shards of this machine that wait for it begin with their next users.
        self.model.stamp(self.step)
        self._last_end = self._clock()
        self._coming.forget(round_.at.step)
        if self._open is not None:
            self._open.started = self._last_end
        return round_.record(self._last_end, self._lanes)
