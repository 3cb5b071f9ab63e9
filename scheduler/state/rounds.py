"""The values of a round: its rules, a simulator's share, where the time went, the record."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.codec import Tensors
from scheduler.rules.algorithm import Algorithm
from scheduler.rules.filters import Filter
from scheduler.rules.held_out import HeldOut
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round, Sampler, TestSampler
from scheduler.rules.schedules import Schedule, Scheduled
from scheduler.rules.server_optimizers import ServerOptimizer
from scheduler.rules.server_rule import ServerRule
from scheduler.state.partition import Exchange

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Rules:
    """How a run's rounds are made; the same object on every rank.

    Attributes:
        seed: of all random streams.
        sampler: chooses the cohorts.
        test_sampler: chooses the users that are tested.
        optimizer: the server step.
        schedule: of its rate; None for a constant one.
        federated: False for one user after another with no averaging.
        rounds: rounds a day.
        exchange: whether simulators add up their sums among themselves.
        algorithm: how users train, and what moves what they send.
        filters: what their updates go through, in order.
        asks_tests: whether something may ask for tests while the run goes, so that no round is certain before the one
            before it is over.
        hold_out: share of the users that never train.
    """

    seed: int
    sampler: Sampler
    test_sampler: TestSampler
    optimizer: ServerOptimizer
    federated: bool = True
    rounds: int = 100
    exchange: Exchange = "auto"
    algorithm: Algorithm = field(default_factory=Algorithm)
    filters: tuple[Filter, ...] = ()
    asks_tests: bool = False
    hold_out: float = 0.0
    schedule: Schedule | None = None

    @property
    def weighs(self) -> bool:
        """Whether users count by their weight in the mean of the model's updates."""
        equal = self.algorithm.weight == "one" or any(each.counts_equally for each in self.filters)
        return self.federated and self.optimizer.weighted and not equal

    @property
    def held_out(self) -> HeldOut | None:
        """Which users never train; None if all may."""
        return HeldOut(self.hold_out, self.seed) if self.hold_out else None

    @property
    def server_rule(self) -> ServerRule:
        """What moves the model, if the algorithm makes nothing else of it."""
        return self.optimizer if self.schedule is None else Scheduled(self.optimizer, self.schedule)


@dataclass(frozen=True)
class RoundEnd:
    """What a simulator is told at the end of a round.

    Attributes:
        checkpoint: whether a checkpoint is made of the state after it.
        replanned: whether what it was told to come after it has changed.
    """

    checkpoint: bool = False
    replanned: bool = False


@dataclass(frozen=True)
class Share:
    """A simulator's part of a cohort.

    Attributes:
        uids: longest first (in the cohort's order when not federated).
        counts: examples of each.
        exponent: grid of the round's sums.
        cohort_size: users of all simulators.
        sizes: users of each simulator of the group that exchanges, in its order; empty without one.
        weights: of each user in the mean; empty where nothing is averaged.
        groups: users of each group that is tested in one go, in the order of the uids; empty if each is by itself.
    """

    uids: tuple[str, ...]
    counts: tuple[int, ...]
    exponent: int = 0
    cohort_size: int = 0
    sizes: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Timings:
    """Seconds of a round, mean over shards: fetching, training, handing back, standing idle.

    Attributes:
        pull: fetching parameters and examples.
        train: training, or testing.
        push: handing back.
        wait: standing idle.
        last: uid of the user that was trained last, for whom the others waited; "" without users.
        turn: seconds of that user alone.
        apart: of `wait`, what a simulator as a whole has waited for others before it pushed.
    """

    pull: float = 0.0
    train: float = 0.0
    push: float = 0.0
    wait: float = 0.0
    last: str = ""
    turn: float = 0.0
    apart: float = 0.0


@dataclass(frozen=True)
class RoundRecord:
    """A finished round or evaluation.

    Attributes:
        phase: "train" or "test".
        at: which round; of an evaluation, the rounds trained before it.
        results: of each user, in the cohort's order.
        seconds: wall time of the whole round.
        timings: where it went.
        kept: a copy of the shared parameters after it, if that was decided.
    """

    phase: str
    at: Round
    results: tuple[UserResult, ...]
    seconds: float
    timings: Timings
    kept: Tensors | None = None


@dataclass(frozen=True)
class Decision:
    """What follows from a round or a test.

    Attributes:
        stop: why the run is complete with it; None to go on.
        keep: whether a copy of the shared parameters is made.
        test: whether a test follows, after a round and in a run that `Rules.asks_tests`.
    """

    stop: str | None = None
    keep: bool = False
    test: bool = False
