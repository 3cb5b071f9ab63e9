"""A round or an evaluation under way: who has which users, and what has come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protos.errors import AlreadyDone, WrongState
from scheduler.rules.metrics import Pair, UserResult, reduce_pairs
from scheduler.rules.samplers import Round
from scheduler.state.rounds import RoundRecord, Share, Timings


@dataclass
class OpenRound:
    """Collects the results of one round or evaluation.

    Attributes:
        phase: "train" or "test".
        at: which round.
        cohort: uids of all simulators.
        shares: by rank, one for each simulator.
        started: when it began; None while it is only known ahead.
        arrived: when each simulator's report came, and where its shards' time went.
    """

    phase: str
    at: Round
    cohort: Sequence[str]
    shares: Mapping[int, Share]
    started: float | None = None
    arrived: dict[int, tuple[float, Timings]] = field(default_factory=dict)
    _results: dict[str, UserResult] = field(default_factory=dict)

    @property
    def results(self) -> tuple[UserResult, ...]:
        """Of all users, in the cohort's order; once all have arrived."""
        return tuple(self._results[uid] for uid in self.cohort)

    @property
    def scalars(self) -> dict[str, Pair]:
        """What users have said for the server step: name -> (sum, count); once all have arrived."""
        return reduce_pairs([result.scalars for result in self._results.values()])

    @property
    def weights(self) -> list[float]:
        """Of all users in the mean of deltas."""
        return [weight for share in self.shares.values() for weight in share.weights]

    @property
    def peer_users(self) -> int:
        """Users of the simulators that exchange among themselves."""
        return sum(next(iter(self.shares.values())).sizes)

    def share_of(self, rank: int, at: Round) -> Share:
        """A simulator's share that it may still report.

        Raises:
            WrongState: another round is on.
            AlreadyDone: its report is there.
        """
        if self.at != at:
            raise WrongState(f"results for {where(at)} came, but {where(self.at)} is on")
        if rank in self.arrived:
            raise AlreadyDone(f"rank {rank} has already pushed {where(at)}")
        return self.shares[rank]

    def check_results(self, rank: int, at: Round, results: Sequence[UserResult]) -> None:
        """Whether a simulator's report can be right.

        Raises:
            WrongState, AlreadyDone: as `share_of`, or users, examples or weights are not those of its share.
        """
        share = self.share_of(rank, at)
        if sorted(r.uid for r in results) != sorted(share.uids):
            odd = {r.uid for r in results} ^ set(share.uids)
            raise WrongState(f"{where(at)}: rank {rank}'s users are not those of its share: {sorted(odd)[:3]}")
        known = dict(zip(share.uids, share.counts, strict=True))
        # None where nothing is averaged.
        weights = dict(zip(share.uids, share.weights, strict=bool(share.weights)))
        for result in results:
            weight = weights.get(result.uid, result.weight)
            if result.weight != weight:
                raise WrongState(f"{where(at)}: uid {result.uid!r} came with weight {result.weight}, it has {weight}")
            if result.examples != known[result.uid]:
                raise WrongState(
                    f"{where(at)}: uid {result.uid!r} came with {result.examples} examples, it has {known[result.uid]}"
                )

    def arrive(self, rank: int, results: Sequence[UserResult], timings: Timings, now: float) -> bool:
        """Takes a report that was checked; returns whether it was the last."""
        self._results.update((r.uid, r) for r in results)
        self.arrived[rank] = (now, timings)
        return len(self.arrived) == len(self.shares)

    def record(self, end: float, lanes: Mapping[int, int]) -> RoundRecord:
        """The finished round.

        Args:
            end: when it ended.
            lanes: shards of each simulator, by rank.
        """
        assert self.started is not None, "whoever asks for a share begins the round"
        seconds = end - self.started
        return RoundRecord(self.phase, self.at, self.results, seconds, self._where_time_went(seconds, lanes))

    def _where_time_went(self, seconds: float, lanes: Mapping[int, int]) -> Timings:
        """Means over all shards; waiting for a slower simulator counts as wait, the rest as push."""
        end = max(when for when, _ in self.arrived.values())
        pull = train = wait = 0.0
        for rank, (when, timings) in self.arrived.items():
            part = lanes[rank] / sum(lanes.values())
            pull += part * timings.pull
            train += part * timings.train
            wait += part * (timings.wait + end - when)
        # Who was waited for has itself waited least for others.
        with_users = [(timings.apart + end - when, timings) for when, timings in self.arrived.values() if timings.last]
        _, slowest = min(with_users, key=lambda each: each[0], default=(0.0, Timings()))
        push = max(0.0, seconds - pull - train - wait)
        return Timings(pull, train, push, wait, slowest.last, slowest.turn)


def where(at: Round) -> str:
    """A round in messages."""
    return f"date {at.date}, round {at.round}"
