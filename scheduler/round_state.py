"""What the scheduler knows and decides, without gRPC, threads or files.

One object holds the day's users, the global parameters and the round under way.
A round goes: `train_shares` for every simulator, `push` from every simulator; the
last push makes the server step and yields a `RoundRecord`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from protos.codec import Tensors, TensorSpec, specs
from protos.errors import AlreadyDone, BadInput, Forbidden, NotFound, WrongState
from protos.shared_arrays import MemoryHandle, SharedArrays, unnamed_file
from scheduler.aggregation import Sums, mean_factor, scale_exponent, share_bound, total_weight
from scheduler.checkpoints import Snapshot
from scheduler.metrics import UserResult
from scheduler.parts import Parts, make_group
from scheduler.placement import place
from scheduler.rounds import TEST, TRAIN, RoundRecord, Rules, Share, Timings
from scheduler.samplers import Round, UserTable, check_cohort

# Rounds whose users may be asked for at once, and before they are due.
MAX_AHEAD = 32

Clock = Callable[[], float]


@dataclass
class _Open:
    """A round or evaluation under way."""

    at: Round
    cohort: list[str]
    shares: dict[int, Share]
    started: float | None = None
    results: dict[str, UserResult] = field(default_factory=dict)
    arrived: dict[int, tuple[float, Timings]] = field(default_factory=dict)


class RoundState:
    """The scheduler's state; not thread-safe, the caller holds a lock.

    Args:
        rules: of the run.
        lanes: shards of each simulator, by rank.
        clock: seconds; replaced in tests.
    """

    def __init__(self, rules: Rules, lanes: Mapping[int, int], clock: Clock = time.perf_counter) -> None:
        self.rules = rules
        self.params: Tensors | None = None
        self.private: frozenset[str] = frozenset()
        self.step = 0
        self._lanes = dict(sorted(lanes.items()))
        self._clock = clock
        self._counts: dict[tuple[str, str], dict[str, int]] = {}
        self._reported: dict[tuple[str, str], set[int]] = {}
        self._users: dict[tuple[str, str], UserTable] = {}
        self._day = ""
        # The round that is due and those after it whose users are known, by step.
        self._known: dict[int, _Open] = {}
        self._test: _Open | None = None
        self._sums: list[Sums] = []
        # Of simulators that exchange: who has which part, and where their parts of the sums come together.
        self._parts: Parts | None = None
        self._gathered: Sums | None = None
        self._last_end: float | None = None
        self._restored: Snapshot | None = None

    # -- users ---------------------------------------------------------------

    def add_user_counts(self, rank: int, date: str, split: str, counts: Mapping[str, int]) -> None:
        """Takes what one simulator has read of a day.

        Raises:
            AlreadyDone: the simulator has reported this day and split.
            BadInput: a user without examples, an unknown split; or, with the last
                report, a day on which a round cannot be sampled.
        """
        self.check_teller(rank, date, split)
        empty = [uid for uid, count in counts.items() if count < 1]
        if empty:
            raise BadInput(f"date {date}, {split}: uid {empty[0]!r} has no examples")
        key = (date, split)
        reported = self._reported.setdefault(key, set())
        merged = dict(self._counts.get(key, {}))
        for uid, count in counts.items():
            merged[uid] = merged.get(uid, 0) + count
        if len(reported) + 1 == len(self._lanes):
            table = UserTable.of(merged)
            if not table.uids:
                raise BadInput(f"date {date}: no users with {split} data")
            if split == TRAIN:
                self.rules.sampler.check(table, date, range(self.step, self._day_end()))
                self._day = date
            self._users[key] = table
            self._counts.pop(key, None)
            # Loading is no part of the round that follows it.
            self._last_end = None
        else:
            self._counts[key] = merged
        reported.add(rank)

    def check_teller(self, rank: int, date: str, split: str) -> None:
        """Whether a simulator may tell its users of a day; raises as `add_user_counts`."""
        self.check_rank(rank)
        if split not in (TRAIN, TEST):
            raise BadInput(f"split {split!r} is neither {TRAIN!r} nor {TEST!r}")
        if rank in self._reported.get((date, split), ()):
            raise AlreadyDone(f"rank {rank} has already told its users of {date}, {split}")

    def users_ready(self, date: str, split: str) -> bool:
        """Whether every simulator has told its users of the day."""
        return (date, split) in self._users

    def user_count(self, date: str, split: str) -> int:
        """How many users the day has."""
        return len(self._users[date, split].uids)

    # -- parameters ----------------------------------------------------------

    def set_initial(self, params: Tensors, private: Iterable[str]) -> None:
        """Takes the initial shared parameters and the names that are private.

        Raises:
            AlreadyDone: they are there.
            Forbidden: a private parameter is among them.
            BadInput: none, or NaN or infinity in one.
        """
        if self.params is not None:
            raise AlreadyDone("the initial parameters are already set")
        private = frozenset(private)
        for name, value in params.items():
            if name in private:
                raise Forbidden(f"parameter {name!r} is private: the scheduler never takes it")
            if value.dtype.kind != "f":
                raise BadInput(f"parameter {name!r} is {value.dtype}: shared parameters are floating-point")
            if not np.isfinite(value).all():
                raise BadInput(f"initial parameter {name!r} holds NaN or infinity")
        if not params:
            raise BadInput("the model has no shared parameters: nothing would be learned together")
        if self._restored is not None:
            _check_model(self._restored, params, private)
            params = self._restored.params
        self._memory = SharedArrays(unnamed_file("flsim-global"), specs(params), create=True)
        for name, value in params.items():
            # Without -0.0, which adding nothing would turn into 0.0.
            np.add(value, 0.0, out=self._memory[name])
        self._memory.stamp(self.step)
        self.params, self.private = self._memory.arrays, private

    def memory(self) -> MemoryHandle:
        """Where simulators of this machine find the shared parameters."""
        self._need_params()
        return self._memory.handle()

    def form_group(self, streaming: Sequence[int]) -> tuple[int, ...]:
        """Decides which simulators exchange among themselves, before any users are known.

        Args:
            streaming: ranks that reach the parameters by a connection only.

        Returns:
            Their ranks; none if each deals with the scheduler alone.
        """
        self.check_unbegun()
        specs = self.param_specs()
        numbers = sum(value.size for value in self._need_params().values())
        group = make_group(streaming, numbers, self.rules.exchange) if self.rules.federated else ()
        if group:
            self._parts = Parts(specs, group)
            self._gathered = Sums.whole({name: np.zeros(spec.shape, np.int64) for name, spec in specs.items()})
        return group

    def check_unbegun(self) -> None:
        """Raises WrongState if it is too late to form a group."""
        if self._reported:
            raise WrongState("simulators choose how they exchange before any day is loaded")

    def part(self, rank: int) -> Tensors:
        """A simulator's part of the shared parameters, flat.

        Raises:
            WrongState: it is in no group.
        """
        parts = self._parts_with(rank)
        if parts is None:
            raise WrongState(f"rank {rank} has no part of the parameters: it is in no group that exchanges")
        return parts.views(self._need_params(), rank)

    def push_specs(self, rank: int, at: Round) -> dict[str, TensorSpec]:
        """What the tensors of a simulator's push must look like; none where nobody has trained. Raises as `push`."""
        share, parts = self._share_of(self._open, rank, at), self._parts_with(rank)
        if parts is not None:
            return parts.specs(rank, "int64") if any(share.sizes) else {}
        return {name: TensorSpec("int64", spec.shape) for name, spec in self.param_specs().items() if share.uids}

    def _parts_with(self, rank: int) -> Parts | None:
        """The parts of the group, if a simulator belongs to it."""
        return self._parts if self._parts is not None and rank in self._parts.group else None

    def param_specs(self) -> dict[str, TensorSpec]:
        """What the shared parameters look like."""
        return specs(self._need_params())

    def check_names(self, names: Iterable[str]) -> None:
        """Raises Forbidden if a name is private."""
        for name in names:
            if name in self.private:
                raise Forbidden(f"parameter {name!r} is private: the scheduler never takes it")

    # -- checkpoints -----------------------------------------------------------

    def snapshot(self, date: str) -> Snapshot:
        """A copy of the state after the last round of the day so far."""
        params = {name: value.copy() for name, value in self._need_params().items()}
        optimizer = {name: value.copy() for name, value in self.rules.optimizer.state_dict().items()}
        return Snapshot(self.step, date, params, optimizer, tuple(sorted(self.private)))

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot; its parameters are taken when the model is known.

        Raises:
            WrongState: the run has begun.
        """
        if self.params is not None or self._reported:
            raise WrongState("a checkpoint can be restored only before anything else")
        self._restored, self.step = snapshot, snapshot.step
        self.rules.optimizer.load_state_dict(snapshot.optimizer)

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
            WrongState: the rounds are not those that are due, or the run has another sampler.
            NotFound: the day's users are not known.
            BadInput: too many rounds at once.
        """
        self.check_rank(rank)
        if kind is not None and self.rules.sampler.name != kind:
            raise WrongState(f"the run samples with {self.rules.sampler.name!r}, not {kind!r}")
        self._check_due(at, rounds)
        shares: dict[int, Share] = {}
        for k in range(rounds):
            step = at.step + k
            if step not in self._known:
                self._known[step] = self._sample(Round(at.seed, at.date, at.round + k, step))
            shares[step] = self._known[step].shares[rank]
        if at.step == self.step and self._known[at.step].started is None:
            self._known[at.step].started = self._clock() if self._last_end is None else self._last_end
        return shares

    def _check_due(self, at: Round, rounds: int) -> None:
        """Refuses what would put rounds into the state that never come."""
        if not 0 < rounds <= MAX_AHEAD:
            raise BadInput(f"{rounds} rounds were asked for at once; 1 to {MAX_AHEAD} are allowed")
        self._table(at.date, TRAIN)
        if at.date != self._day:
            raise WrongState(f"{_where(at)} was asked for, the day is {self._day}")
        if not self.step <= at.step < self.step + MAX_AHEAD:
            raise WrongState(f"round {at.step} of the run was asked for, {self.step} is due")
        # All days have the same number of rounds.
        day = max(1, self.rules.rounds)
        if at.round != at.step % day + 1 or at.round + rounds - 1 > self.rules.rounds:
            raise WrongState(
                f"{_where(at)} and {rounds - 1} after it were asked for as round {at.step} of the run, "
                f"with {self.rules.rounds} rounds a day"
            )
        if at.step // day != self.step // day:
            raise WrongState(f"{_where(at)} was asked for, round {self.step} of the run is due, on an earlier day")

    @property
    def _open(self) -> _Open | None:
        """The round that is due, if its users are known."""
        return self._known.get(self.step)

    def _sample(self, at: Round) -> _Open:
        users = self._table(at.date, TRAIN)
        cohort = list(self.rules.sampler.sample(users, at))
        check_cohort(cohort, users.uids, self.rules.sampler, at)
        return self._begin(at, cohort, users, in_order=not self.rules.federated)

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
        self._check_results(self._open, rank, at, results)
        if not self.rules.federated:
            raise WrongState("this run trains without federation: it takes parameters, not deltas")
        assert self._open is not None, "_check_results has seen it"
        if bool(sums) != bool(self.push_specs(rank, at)):
            raise BadInput(f"rank {rank} pushed {len(results)} users but {len(sums)} sums")
        grouped = self._parts_with(rank) is not None
        if len(sums) > self._lanes[rank]:
            raise BadInput(f"rank {rank} pushed {len(sums)} sums, it has {self._lanes[rank]} shards")
        if grouped and not all(each.streamed for each in sums):
            raise BadInput(f"rank {rank} pushed its shards' own sums; those of its group are expected")
        users = sum(self._open.shares[rank].sizes) if grouped else len(results)
        for each in sums:
            each.check(share_bound(users, len(self._open.cohort)))
        arrived = self._arrive(self._open, rank, results, timings)
        for each in sums:
            self._add_sums(rank, each)
        return self._finish_round() if arrived else None

    def _add_sums(self, rank: int, new: Sums) -> None:
        """Keeps a push until the last is in; streamed ones are added up, so that memory does not grow with them."""
        parts = self._parts_with(rank)
        if parts is not None and self._gathered is not None:
            for name, target in parts.views(self._gathered.totals, rank).items():
                target[...] = new.totals[name]
            return
        for held in self._sums:
            if held.streamed and new.streamed:
                for name, total in held.totals.items():
                    np.add(total, new.totals[name], out=total)
                return
        self._sums.append(new)

    def replace(
        self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings, params: Tensors
    ) -> RoundRecord:
        """Takes the parameters after a round that was trained without federation.

        Raises:
            WrongState, AlreadyDone, BadInput: and nothing has changed.
        """
        self._check_results(self._open, rank, at, results)
        if self.rules.federated:
            raise WrongState("this run is federated: it takes deltas, not parameters")
        if not results:
            raise WrongState(f"rank {rank} has no share of {_where(at)}")
        for name, value in params.items():
            if not np.isfinite(value).all():
                raise BadInput(f"{_where(at)}: parameter {name!r} holds NaN or infinity; lower --lr")
        round_ = self._open
        assert round_ is not None
        for other in round_.shares:
            round_.arrived.setdefault(other, (self._clock(), Timings()))
        self._arrive(round_, rank, results, timings)
        for name, value in params.items():
            self._need_params()[name][...] = value
        return self._close_round(round_)

    # -- evaluation ----------------------------------------------------------

    def test_share(self, rank: int, at: Round) -> Share:
        """The simulator's share of the users to test; raises as `train_shares`."""
        self.check_rank(rank)
        if self._test is None:
            if at.round != at.step:
                raise WrongState(f"a test after {at.step} rounds was asked for as the one after {at.round}")
            if at.step != self.step or (self._open is not None and self._open.arrived):
                raise WrongState(f"a test after {at.step} rounds was asked for, {self.step} are done")
            users = self._table(at.date, TEST)
            cohort = self.rules.test_sampler.sample(users, self.rules.seed, at.date)
            self._test = self._begin(at, cohort, users, in_order=False)
            self._test.started = self._clock()
        if self._test.at != at:
            raise WrongState(f"a test at {_where(at)} was asked for during the one at {_where(self._test.at)}")
        return self._test.shares[rank]

    def report_test(self, rank: int, at: Round, results: Sequence[UserResult], timings: Timings) -> RoundRecord | None:
        """Takes a simulator's evaluation; the last one gives the record."""
        self._check_results(self._test, rank, at, results)
        if not self._arrive(self._test, rank, results, timings):
            return None
        assert self._test is not None
        end = self._clock()
        record = self._record(self._test, TEST, end)
        # Testing is no part of the round that follows it.
        self._test = self._last_end = None
        if self._open is not None:
            self._open.started = end
        return record

    # -- inside --------------------------------------------------------------

    def _need_params(self) -> Tensors:
        if self.params is None:
            raise WrongState("the initial parameters are not set yet")
        return self.params

    def check_rank(self, rank: int) -> None:
        """Raises NotFound if a rank is no simulator."""
        if rank not in self._lanes:
            raise NotFound(f"rank {rank} is not a simulator of this run ({sorted(self._lanes)})")

    def _day_end(self) -> int:
        """The first round of the run after the day of the one that is due."""
        day = max(1, self.rules.rounds)
        return (self.step // day + 1) * day

    def _table(self, date: str, split: str) -> UserTable:
        table = self._users.get((date, split))
        if table is None:
            raise NotFound(f"no {split} users are known for date {date!r}")
        return table

    def _begin(self, at: Round, cohort: list[str], users: UserTable, *, in_order: bool) -> _Open:
        counts = [users.count(uid) for uid in cohort]
        lanes = list(self._lanes.values())
        # Without federation one shard trains all, in the cohort's order.
        placed = [list(range(len(cohort))), *([] for _ in lanes[1:])] if in_order else place(counts, lanes)
        exponent = scale_exponent(sum(counts) if self.rules.optimizer.weighted else len(cohort))
        by_rank = dict(zip(self._lanes, placed, strict=True))
        sizes = tuple(len(by_rank[rank]) for rank in self._parts.group) if self._parts is not None else ()
        shares = {
            rank: Share(tuple(cohort[i] for i in mine), tuple(counts[i] for i in mine), exponent, len(cohort), sizes)
            for rank, mine in by_rank.items()
        }
        return _Open(at, cohort, shares)

    def share_size(self, rank: int, at: Round, phase: str) -> int:
        """How many users a simulator reports in the round or evaluation that is on; raises as `push`."""
        round_ = self._open if phase == TRAIN else self._test
        return len(self._share_of(round_, rank, at).uids)

    def _share_of(self, round_: _Open | None, rank: int, at: Round) -> Share:
        self.check_rank(rank)
        if round_ is None or round_.at != at:
            raise WrongState(f"results for {_where(at)} came, but {_where(round_.at) if round_ else 'no round'} is on")
        if rank in round_.arrived:
            raise AlreadyDone(f"rank {rank} has already pushed {_where(at)}")
        return round_.shares[rank]

    def _check_results(self, round_: _Open | None, rank: int, at: Round, results: Sequence[UserResult]) -> None:
        share = self._share_of(round_, rank, at)
        if sorted(r.uid for r in results) != sorted(share.uids):
            odd = {r.uid for r in results} ^ set(share.uids)
            raise WrongState(f"{_where(at)}: rank {rank}'s users are not those of its share: {sorted(odd)[:3]}")
        known = dict(zip(share.uids, share.counts, strict=True))
        for result in results:
            if not (math.isfinite(result.weight) and result.weight >= 0) or (
                round_ is self._open and result.weight == 0
            ):
                raise BadInput(f"{_where(at)}: uid {result.uid!r} has weight {result.weight}; it must be above 0")
            if result.examples != known[result.uid]:
                raise WrongState(
                    f"{_where(at)}: uid {result.uid!r} came with {result.examples} examples, it has {known[result.uid]}"
                )

    def _arrive(self, round_: _Open | None, rank: int, results: Sequence[UserResult], timings: Timings) -> bool:
        assert round_ is not None
        round_.results.update((r.uid, r) for r in results)
        round_.arrived[rank] = (self._clock(), timings)
        return len(round_.arrived) == len(self._lanes)

    def _finish_round(self) -> RoundRecord:
        round_, params = self._open, self._need_params()
        assert round_ is not None
        weight = total_weight(r.weight for r in round_.results.values())
        factor = mean_factor(weight, next(iter(round_.shares.values())).exponent)
        sums = [*self._sums]
        if self._gathered is not None and any(next(iter(round_.shares.values())).sizes):
            sums.append(self._gathered)
        for name, value in params.items():
            self.rules.optimizer.apply(name, value, sums, factor, len(round_.cohort))
        self._sums.clear()
        return self._close_round(round_)

    def _close_round(self, round_: _Open) -> RoundRecord:
        self.step += 1
        # Shards of this machine that wait for it begin with their next users.
        self._memory.stamp(self.step)
        self._last_end = self._clock()
        del self._known[round_.at.step]
        if self._open is not None:
            self._open.started = self._last_end
        return self._record(round_, TRAIN, self._last_end)

    def _record(self, round_: _Open, phase: str, end: float) -> RoundRecord:
        results = tuple(round_.results[uid] for uid in round_.cohort)
        assert round_.started is not None
        seconds = end - round_.started
        return RoundRecord(phase, round_.at, results, seconds, self._where_time_went(round_, seconds))

    def _where_time_went(self, round_: _Open, seconds: float) -> Timings:
        """Means over all shards; waiting for a slower simulator counts as wait, the rest as push."""
        last = max(when for when, _ in round_.arrived.values())
        lanes = sum(self._lanes.values())
        pull = train = wait = 0.0
        for rank, (when, timings) in round_.arrived.items():
            part = self._lanes[rank] / lanes
            pull += part * timings.pull
            train += part * timings.train
            wait += part * (timings.wait + last - when)
        return Timings(pull, train, max(0.0, seconds - pull - train - wait), wait)


def _check_model(restored: Snapshot, params: Tensors, private: frozenset[str]) -> None:
    """Raises BadInput if a checkpoint is of another model."""
    for name in (*restored.params, *params):
        old, new = (str(TensorSpec.of(held[name])) if name in held else "missing" for held in (restored.params, params))
        if old != new:
            raise BadInput(f"parameter {name!r} is {new} in the model and {old} in the checkpoint")
    for name in sorted(set(private) ^ set(restored.private)):
        where = "the model" if name in private else "the checkpoint"
        raise BadInput(f"parameter {name!r} is private only in {where}")


def _where(at: Round) -> str:
    return f"date {at.date}, round {at.round}"
