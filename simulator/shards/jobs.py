"""What a simulator asks of its shards and what they answer, over a private pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from protos.codec import Tensors, TensorSpec
from protos.gate import Keys
from protos.shared_arrays import MemoryHandle
from scheduler.rules.algorithm import Algorithm
from scheduler.rules.exact_sum import Sums
from scheduler.rules.filters import Filter
from scheduler.rules.layers import Layers
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import Share, Timings
from simulator.contracts import Reader, Trainer
from simulator.users.example_cache import CacheUse
from simulator.users.prepared_cache import PreparedUse


@dataclass(frozen=True)
class ShardSettings:
    """What a shard needs to know from the start.

    Attributes:
        index: of the shard within its simulator, from 0.
        rank: of the simulator.
        seed: of the run.
        weighted: whether users count by their weight.
        private: patterns, or None for the model's own.
        reader: the reader.
        trainer: the trainer.
        store: folder of the simulator's store of users.
        params_fd: unnamed file of the shared parameters.
        sums_fd: unnamed file of this shard's sums.
        queue_fd: unnamed file of the work queue.
        tune: whether to do what is for speed only.
        algorithm: how users train.
        filters: what their updates go through.
    """

    index: int
    rank: int
    seed: int
    weighted: bool
    private: tuple[str, ...] | None
    reader: Reader
    trainer: Trainer
    store: Path
    params_fd: int
    sums_fd: int
    queue_fd: int
    tune: bool = True
    algorithm: Algorithm = field(default_factory=Algorithm)
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Connect:
    """The data servers of the run, and what opens their doors: over the pipe, so that it is nowhere else to be seen."""

    addresses: Mapping[int, str]
    keys: Keys


@dataclass(frozen=True)
class Prepare:
    """Run the reader's `prepare`, unless a cache has what it gave; answered with its JSON."""

    data: Path
    files: tuple[Path, ...]
    cache: PreparedUse | None = None


@dataclass(frozen=True)
class Setup:
    """What the reader's `prepare` gave."""

    shared: dict[str, Any]


@dataclass(frozen=True)
class ReadFiles:
    """Read files of a day from the queue, or take from a cache what came of them; answered with `FilesRead`."""

    date: str
    split: str
    files: tuple[tuple[int, Path], ...]
    cache: CacheUse | None = None


@dataclass
class FilesRead(ReadUsers):
    """What came of a shard's files, or of those of all shards.

    Attributes:
        cached: files whose users a cache had.
        trouble: with the cache; the run goes on without it.
    """

    cached: int = 0
    trouble: str | None = None


@dataclass(frozen=True)
class WeighUsers:
    """Weigh users from the queue whose examples came in several pieces; answered with uid -> weight."""

    date: str
    uids: tuple[str, ...]


@dataclass(frozen=True)
class BuildModel:
    """Build the model; answered with a `ModelSchema`."""


@dataclass(frozen=True)
class ModelSchema:
    """What the model's parameters look like, and an algorithm's arrays beside them; each in its order.

    Attributes:
        shared: parameters of the model that all users share.
        groups: arrays of the algorithm's groups, by "group/name".
        private: parameters that each user keeps to itself.
        state: arrays that each user keeps, of the algorithm and of filters, by the names under which they are kept.
        layers: all arrays of the model by their layers.
        together: examples of users that the trainer tests in one go; 0 if it tests each user by itself.
        frozen: parameters that no user changes.
        frozen_digest: of what they are in this shard.
    """

    shared: dict[str, TensorSpec]
    groups: dict[str, TensorSpec]
    private: dict[str, TensorSpec]
    state: dict[str, TensorSpec]
    layers: Layers
    together: int = 0
    frozen: dict[str, TensorSpec] = field(default_factory=dict)
    frozen_digest: str = ""

    @property
    def arrays(self) -> dict[str, TensorSpec]:
        """All that travels between the scheduler and the shards."""
        return {**self.shared, **self.groups}

    @property
    def kept(self) -> dict[str, TensorSpec]:
        """All that is kept of a user."""
        return {**self.private, **self.state}


@dataclass(frozen=True)
class Attach:
    """Map the shared arrays; `write_initial` has this shard write its own values to them."""

    arrays: dict[str, TensorSpec]
    write_initial: bool


@dataclass(frozen=True)
class UseMemory:
    """Read the shared parameters from the scheduler's own memory from now on."""

    handle: MemoryHandle


@dataclass(frozen=True)
class ReadFrozen:
    """Answered with the frozen parameters."""


@dataclass(frozen=True)
class StartPrivate:
    """What of a user's start the run has not drawn itself.

    Attributes:
        given: private values that take the place of the model's own (from `--init`).
        frozen: the same, of frozen parameters.
        frozen_digest: of the run's frozen parameters, which those of this shard must then be.
    """

    given: Tensors
    frozen: Tensors = field(default_factory=dict)
    frozen_digest: str = ""


@dataclass(frozen=True)
class TrainShare:
    """Train users from the queue, adding their weighted deltas to this shard's sums."""

    at: Round
    share: Share


@dataclass(frozen=True)
class TrainInTurn:
    """Train users from the queue one after another, with no averaging; the result goes to `result_room`."""

    at: Round
    share: Share


@dataclass(frozen=True)
class EvaluateShare:
    """Evaluate users from the queue, or groups of them if the share has groups.

    Attributes:
        at: which round.
        share: of this simulator.
        trained_on: the day whose training data the users have.
    """

    at: Round
    share: Share
    trained_on: str


@dataclass(frozen=True)
class Ahead:
    """The job after the one under way, to get ready for.

    It begins with `Go`, or as soon as the memory of the parameters tells that they are those it asks for.

    Attributes:
        job: to come.
        lanes: shards that take from its share.
    """

    job: TrainShare
    lanes: int


@dataclass(frozen=True)
class Go:
    """Begin with what was told `Ahead`; not answered, and nothing to one that has begun."""


# What a shard must have done before it can train: given again, in the order in which
# they first were, to one that takes the place of a dead one.
LASTING = (Connect, Setup, BuildModel, Attach, UseMemory, StartPrivate)
# Jobs whose parts are taken from the queue, so that another shard can do them after a death.
QUEUED = (ReadFiles, WeighUsers, TrainShare, TrainInTurn, EvaluateShare)


@dataclass(frozen=True)
class Stop:
    """Leave."""


@dataclass(frozen=True)
class Done:
    """A job's answer."""

    value: Any = None


@dataclass(frozen=True)
class ShareResult:
    """What a shard did of a share.

    Attributes:
        results: of the users it took.
        timings: its own seconds; wait is filled in by the pool.
    """

    results: list[UserResult] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Failed:
    """A job failed.

    Attributes:
        where: which file, or uid, date and round.
        message: one line if the input is to blame, else a traceback.
        bad_input: whether the input is to blame.
        peer_lost: whether another simulator did not answer; it may be that the run has failed there.
    """

    where: str
    message: str
    bad_input: bool
    peer_lost: bool = False


def describe_turn(uid: str, at: Round) -> str:
    """Whose turn it is, for errors."""
    return f"date {at.date}, round {at.round}, uid {uid!r}"


def group_of(share: Share, number: int) -> range:
    """Where in a share the users of a group are."""
    first = sum(share.groups[:number])
    return range(first, first + share.groups[number])


def describe_group(uids: Sequence[str], at: Round) -> str:
    """Whose turn it is, of users who are tested in one go."""
    if len(uids) == 1:
        return describe_turn(uids[0], at)
    some = ", ".join(map(repr, uids[:3]))
    return f"date {at.date}, round {at.round}, {len(uids)} users tested in one go: {some}{', ...' * (len(uids) > 3)}"


def describe_part(job: Any, number: int) -> str:
    """A numbered part of a `QUEUED` job, for errors."""
    if isinstance(job, ReadFiles):
        return f"file {job.files[number][1]}"
    if isinstance(job, WeighUsers):
        return f"date {job.date}, uid {job.uids[number]!r}"
    if job.share.groups:
        return describe_group([job.share.uids[i] for i in group_of(job.share, number)], job.at)
    return describe_turn(job.share.uids[number], job.at)


def describe_again(job: Any, parts: int) -> str:
    """What is done again of a `QUEUED` job."""
    kinds = {ReadFiles: ("file", "read"), WeighUsers: ("user", "weighed"), EvaluateShare: ("user", "tested")}
    what, done = kinds.get(type(job), ("user", "trained"))
    if isinstance(job, EvaluateShare) and job.share.groups:
        return f"{parts} group{'s' * (parts != 1)} of users {'is' if parts == 1 else 'are'} tested again"
    return f"{parts} {what} is {done} again" if parts == 1 else f"{parts} {what}s are {done} again"


def result_room(sums: Sums, shared: Mapping[str, TensorSpec]) -> Tensors:
    """Where the result of `TrainInTurn` goes: the memory of a shard's sums, which nothing else needs then.

    A shard may die while it writes there.  What it read stays as it was, for the one that does it again.
    """
    return {
        name: sums.totals[name].reshape(-1).view(spec.dtype)[: prod(spec.shape)].reshape(spec.shape)
        for name, spec in shared.items()
    }
