"""A simulator's days: their data is loaded, their rounds are played, and what follows is tested."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from protos.codec import Tensors
from scheduler.rules.samplers import Round
from scheduler.service.client import SchedulerClient
from scheduler.state.rounds import TEST, TRAIN, Rules, Share, Timings
from simulator.checkpoints.private_saver import PrivateSaver
from simulator.days import DayPlan
from simulator.exchange.transport import Transport
from simulator.run.file_dealing import deal_files, listing
from simulator.run.shares_ahead import SharesAhead
from simulator.settings import Settings
from simulator.shards.pool import ShardPool
from simulator.users.seat import LoadingDays
from simulator.users.store import UserStore


class DayPlayer:
    """Plays days one after another, in step with the other simulators.

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
        params: this machine's copy of the shared parameters.
        saver: of private parameters; None if the model has none.
        step: the global round to begin with.
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
        params: Tensors,
        saver: PrivateSaver | None,
        step: int,
    ) -> None:
        self._client, self._pool, self._transport = client, pool, transport
        self._rules, self._settings, self._files = rules, settings, files
        self._rank, self._lanes = rank, lanes
        self._store, self._days, self._params, self._saver = store, days, params, saver
        self._step = step
        # The round whose shared parameters the shards have before them.
        self._pulled = -1

    def play(self, day: DayPlan, done: int) -> None:
        """Plays a day of which so many rounds are done."""
        if done < self._rules.rounds:
            self._load(day.date, TRAIN)
        if day.test_date is not None:
            # Now and not after the training: a mistake in it must not cost a day of rounds.
            self._load(day.test_date, TEST)
        first = Round(self._rules.seed, day.date, done + 1, self._step)
        shares = SharesAhead(self._client.begin_sample_user_lists, first, self._rules.rounds - done)
        if done:
            self._evaluate_after(done, day)
        for number in range(done + 1, self._rules.rounds + 1):
            ahead = None
            if self._may_tell(number, day):
                ahead = partial(self._following, Round(self._rules.seed, day.date, number + 1, self._step + 1), shares)
            self._play_round(Round(self._rules.seed, day.date, number, self._step), shares.take(self._step), ahead)
            self._step += 1
            self._evaluate_after(number, day)
        if not self._rules.rounds:
            self._evaluate_after(0, day)
        # Until here another simulator may need the data and private parameters of a user that is kept here.
        self._client.exchange(f"done/{day.date}", b"")
        for date, split in ((day.date, TRAIN), (day.test_date, TEST)):
            if date is not None:
                self._store.clear_examples(date, split)

    def _may_tell(self, number: int, day: DayPlan) -> bool:
        """Whether shards may begin with the round after this one by themselves."""
        last = number == self._rules.rounds
        told = self._transport.shards_see_it and self._rules.federated
        return told and not last and not self._is_test_due(number, day)

    def _following(self, at: Round, shares: SharesAhead) -> tuple[Round, Share]:
        return at, shares.peek(at.step)

    def _load(self, date: str, split: str) -> None:
        data = self._settings.data
        files = self._files(data / date, split) if (data / date).is_dir() else []
        # Before the exchange nobody reads, and when all have told their users, all have been sent.
        with self._days.loading(date, split):
            listings = self._client.exchange(f"files/{date}/{split}", listing(data, files))
            mine = deal_files(listings, self._lanes, self._rank, f"{data / date}: {split}")
            read = self._pool.read_files(date, split, [(number, data / name) for number, name in mine])
            # All data is at its owners when this returns, so that users whose data came in pieces can be weighed.
            pieces = self._client.update_user_inst_num(date, split, read.counts, read.weights)
        if pieces:
            self._client.update_user_weights(date, self._pool.weigh(date, pieces))

    def _play_round(self, at: Round, share: Share, following: Callable[[], tuple[Round, Share]] | None) -> None:
        """Pull, train, push; see `ShardPool.train` for what follows."""
        if not self._rules.federated:
            self._train_in_turn(at, share)
            return
        self._transport.begin(at, share)
        pulled = self._pull(at.step)
        done = self._pool.train(at, share, following)
        self._end_round(at, checkpoint=self._transport.push(at, share, done, pulled))

    def _train_in_turn(self, at: Round, share: Share) -> None:
        """A round without federation: one simulator has all of its users, the others wait for its end."""
        if share.uids:
            pulled = self._pull(at.step)
            done = self._pool.train_in_turn(at, share)
            timings = _with_pull(done.timings, pulled)
            self._client.replace_global_params(at, done.results, lambda: timings, self._params)
        self._end_round(at, checkpoint=self._client.end_round(at))

    def _end_round(self, at: Round, *, checkpoint: bool) -> None:
        """Begins this simulator's part of a checkpoint, if one is made: the state now is the one after the round."""
        if checkpoint and self._saver is not None:
            self._saver.begin(at.step + 1)

    def _pull(self, step: int) -> float:
        """Has the shared parameters before round `step` where the shards read them; returns seconds."""
        began = time.perf_counter()
        if self._pulled != step:
            self._transport.pull(step)
            self._pulled = step
        return time.perf_counter() - began

    def _evaluate_after(self, number: int, day: DayPlan) -> None:
        """Tests after so many rounds of a day, if that is due."""
        if day.test_date is not None and self._is_test_due(number, day):
            self._evaluate(day.test_date, day.date)

    def _is_test_due(self, number: int, day: DayPlan) -> bool:
        every, last = self._settings.eval_every, number == self._rules.rounds
        return day.test_date is not None and (last or bool(every and number % every == 0))

    def _evaluate(self, date: str, trained_on: str) -> None:
        at = Round(self._rules.seed, date, self._step, self._step)
        share = self._client.test_sample_user_list(at)
        pulled = self._pull(self._step)
        done = self._pool.evaluate(at, share, trained_on)
        self._client.update_test_metrics(at, done.results, _with_pull(done.timings, pulled))


def _with_pull(timings: Timings, pulled: float) -> Timings:
    return replace(timings, pull=timings.pull + pulled)
