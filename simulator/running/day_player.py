"""A simulator's days: it asks the scheduler what comes next, and does it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from protos.codec import Tensors
from scheduler.rules.samplers import Round
from scheduler.service.client import SchedulerClient
from scheduler.state.plan import Clear, End, Evaluate, Load, Stage, Train
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import RoundEnd, Rules, Share, Timings
from simulator.checkpoints.private_saver import PrivateSaver
from simulator.days import day_folder
from simulator.exchange.transport import Transport
from simulator.running.file_dealing import deal_files, listing
from simulator.running.reader_cache import ReaderCache
from simulator.running.shares_ahead import SharesAhead
from simulator.settings import Settings
from simulator.shards.pool import ShardPool
from simulator.users.example_cache import sweep
from simulator.users.seat import LoadingDays
from simulator.users.store import UserStore

logger = logging.getLogger(__name__)


class DayPlayer:
    """Plays the stages of a run one after another, in step with the other simulators.

    Args:
        client: of the scheduler.
        pool: the shards, with the model built.
        transport: how parameters and sums travel.
        rules: of the rounds.
        settings: of the run.
        files: the reader's; finds the files of a day's folder and a split.
        rank: of this simulator.
        lanes: shards of each simulator, by rank.
        store: of the users.
        days: whose examples this simulator's data server takes.
        cache: of what the reader makes; None without one.
        params: this machine's copy of the shared parameters.
        saver: of private parameters; None if the model has none.
        step: rounds of the run that are done already.
        together: see `jobs.ModelSchema`.
    """

    def __init__(
        self,
        client: SchedulerClient,
        pool: ShardPool,
        transport: Transport,
        rules: Rules,
        settings: Settings,
        *,
        files: Callable[[Path, str], Sequence[Path]],
        rank: int,
        lanes: Mapping[int, int],
        store: UserStore,
        days: LoadingDays,
        cache: ReaderCache | None = None,
        params: Tensors,
        saver: PrivateSaver | None,
        step: int,
        together: int = 0,
    ) -> None:
        self._client, self._pool, self._transport = client, pool, transport
        self._rules, self._settings, self._files = rules, settings, files
        self._rank, self._lanes = rank, lanes
        self._store, self._days, self._params, self._saver = store, days, params, saver
        self._cache = cache
        self._step, self._together = step, together
        # The round whose shared parameters the shards have before them.
        self._pulled = -1
        # What the scheduler has told to come next.
        self._told: deque[Stage] = deque()
        # Of the day that is played.
        self._shares: tuple[str, SharesAhead] | None = None

    def play(self) -> None:
        """Does what the scheduler tells, one stage of the plan after another, to the end of the run."""
        while True:
            if not self._told:
                self._told.extend(self._client.next_stages(self._step))
            match stage := self._told.popleft():
                case Load(date, split):
                    self._load(date, split)
                case Train():
                    self._train(stage)
                case Evaluate():
                    self._evaluate(stage)
                case Clear(date, split):
                    self._clear(date, split)
                case End():
                    return

    def _train(self, stage: Train) -> None:
        """Plays rounds one after another; what was told to come after them may change with each."""
        shares = self._shares_of(stage)
        may_tell = stage.ahead and self._transport.shards_see_it and self._rules.federated
        for place in range(stage.rounds):
            at, ahead = stage.at(place, self._rules.seed), None
            if may_tell and place + 1 < stage.rounds:
                ahead = partial(self._following, stage.at(place + 1, self._rules.seed), shares)
            end = self._play_round(at, shares.take(at.step), ahead)
            self._step += 1
            if end.replanned:
                self._told.clear()
                return

    def _shares_of(self, stage: Train) -> SharesAhead:
        """The shares of the rounds of a day: they are known before the tests between them."""
        if self._shares is None or self._shares[0] != stage.date:
            first, rounds = stage.at(0, self._rules.seed), stage.rounds + stage.left
            shares = SharesAhead(self._client.begin_sample_user_lists, first, rounds)
            self._shares = stage.date, shares
        return self._shares[1]

    def _following(self, at: Round, shares: SharesAhead) -> tuple[Round, Share]:
        return at, shares.peek(at.step)

    def _clear(self, date: str, split: str) -> None:
        """Forgets data, when no other simulator needs the examples and private parameters of users kept here."""
        self._client.exchange(f"done/{date}/{split}", b"")
        self._store.clear_examples(date, split)

    def _load(self, date: str, split: str) -> None:
        data = self._settings.data
        day = day_folder(data, date)
        files = self._files(day, split) if day.is_dir() else []
        # Before the exchange nobody reads, and when all have told their users, all have been sent.
        with self._days.loading(date, split):
            listings = self._client.exchange(f"files/{date}/{split}", listing(data, files))
            mine = deal_files(listings, self._lanes, self._rank, f"{day}: {split}")
            users = self._read(date, split, [(number, data / name) for number, name in mine])
            # All data is at its owners when this returns, so that users whose data came in pieces can be weighed.
            pieces = self._client.update_user_inst_num(date, split, users.counts, users.weights)
        if pieces:
            self._client.update_user_weights(date, self._pool.weigh(date, pieces))

    def _read(self, date: str, split: str, files: Sequence[tuple[int, Path]]) -> ReadUsers:
        if self._cache is None or not files:
            return self._pool.read_files(date, split, files)
        read = self._pool.read_files(date, split, files, self._cache.of_day(date, split))
        if read.trouble is not None:
            logger.warning("%s", read.trouble)
        logger.info("%s %s: %d of %d files were in --cache", date, split, read.cached, len(files))
        if read.cached < len(files):
            sweep(self._cache.folder)
        return read

    def _play_round(self, at: Round, share: Share, following: Callable[[], tuple[Round, Share]] | None) -> RoundEnd:
        """Pull, train, push; see `ShardPool.train` for what follows."""
        if not self._rules.federated:
            return self._end_round(at, self._train_in_turn(at, share))
        self._transport.begin(at, share)
        pulled = self._pull(at.step)
        done = self._pool.train(at, share, following)
        return self._end_round(at, self._transport.push(at, share, done, pulled))

    def _train_in_turn(self, at: Round, share: Share) -> RoundEnd:
        """A round without federation: one simulator has all of its users, the others wait for its end."""
        if share.uids:
            pulled = self._pull(at.step)
            done = self._pool.train_in_turn(at, share)
            timings = _with_pull(done.timings, pulled)
            self._client.replace_global_params(at, done.results, lambda: timings, self._params)
        return self._client.end_round(at)

    def _end_round(self, at: Round, end: RoundEnd) -> RoundEnd:
        """Begins this simulator's part of a checkpoint, if one is made: the state now is the one after the round."""
        if end.checkpoint and self._saver is not None:
            self._saver.begin(at.step + 1)
        return end

    def _pull(self, step: int) -> float:
        """Has the shared parameters before round `step` where the shards read them; returns seconds."""
        began = time.perf_counter()
        if self._pulled != step:
            self._transport.pull(step)
            self._pulled = step
        return time.perf_counter() - began

    def _evaluate(self, stage: Evaluate) -> None:
        at = Round(self._rules.seed, stage.date, stage.step, stage.step)
        share = self._client.test_sample_user_list(at, self._together)
        pulled = self._pull(at.step)
        done = self._pool.evaluate(at, share, stage.day)
        self._client.update_test_metrics(at, done.results, _with_pull(done.timings, pulled))


def _with_pull(timings: Timings, pulled: float) -> Timings:
    return replace(timings, pull=timings.pull + pulled)
