"""Between the protocol's messages and the scheduler's own types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from protos.codec import MAX_NAME
from protos.errors import BadInput, TooLarge
from protos.shared_arrays import MemoryHandle
from protos.stubs import scheduler_server_pb2 as pb
from scheduler.rules.samplers import Round
from scheduler.state.bounds import MAX_DAYS, check_date
from scheduler.state.checkpoints import Segment
from scheduler.state.plan import Clear, End, Evaluate, Load, Stage, Train
from scheduler.state.rounds import RoundEnd, Share
from scheduler.state.stopping import Stop

# Users in one message: far below the bound of a message with the longest uids.
BATCH = 5_000
_FILE = re.compile(r"[0-9a-z][0-9a-z.-]{0,99}")


@dataclass(frozen=True)
class SimulatorInfo:
    """One simulator of a run.

    Attributes:
        rank: its MPI rank.
        host: machine name.
        data_address: of its data server, "host:port".
        shards: worker processes.
        days: day folders it sees.
    """

    rank: int
    host: str
    data_address: str
    shards: int
    days: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """All simulators, by rank, and the days of all."""

    simulators: tuple[SimulatorInfo, ...]
    days: tuple[str, ...]


def info_to_message(info: SimulatorInfo) -> pb.SimulatorInfo:
    """As a message."""
    return pb.SimulatorInfo(
        rank=info.rank, host=info.host, data_address=info.data_address, shards=info.shards, days=info.days
    )


def info_from_message(message: pb.SimulatorInfo) -> SimulatorInfo:
    """From a message.

    Raises:
        BadInput: no shards, or a day that is none.
        TooLarge: a name beyond its bound, too many days.
    """
    for what, text in (("host", message.host), ("data address", message.data_address)):
        if len(text) > MAX_NAME:
            raise TooLarge(f"rank {message.rank}: its {what} has {len(text)} characters, more than {MAX_NAME}")
    if len(message.days) > MAX_DAYS:
        raise TooLarge(f"rank {message.rank} has {len(message.days)} days; at most {MAX_DAYS} are allowed")
    if not 0 < message.shards <= 4096:
        raise BadInput(f"rank {message.rank} has {message.shards} shards; 1 to 4096 are allowed")
    days = tuple(check_date(day) for day in message.days)
    return SimulatorInfo(message.rank, message.host, message.data_address, message.shards, days)


def handle_to_message(handle: MemoryHandle) -> pb.MemoryHandle:
    """As a message."""
    return pb.MemoryHandle(machine=handle.machine, pid=handle.pid, fd=handle.fd, token=handle.token)


def handle_from_message(message: pb.MemoryHandle) -> MemoryHandle:
    """From a message."""
    return MemoryHandle(message.machine, message.pid, message.fd, message.token)


def segment_to_message(segment: Segment) -> pb.Segment:
    """As a message."""
    return pb.Segment(name=segment.name, size=segment.size, digest=segment.digest)


def segment_from_message(message: pb.Segment) -> Segment:
    """From a message.

    Raises:
        BadInput: a name that is none of a plain file.
    """
    if not _FILE.fullmatch(message.name) or len(message.digest) > MAX_NAME:
        raise BadInput(f"segment {message.name[:40]!r} is not the name of a file of private parameters")
    return Segment(message.name, message.size, message.digest)


def stop_to_message(stop: Stop) -> pb.Stop:
    """As a message."""
    return pb.Stop(reason=stop.reason, status=stop.status, step=stop.step, saves=stop.saves)


def stop_from_message(message: pb.Stop) -> Stop:
    """From a message."""
    return Stop(message.reason, message.status, message.step, message.saves)


def end_to_message(end: RoundEnd) -> pb.RoundEnd:
    """As a message."""
    return pb.RoundEnd(checkpoint=end.checkpoint, replanned=end.replanned)


def end_from_message(message: pb.RoundEnd) -> RoundEnd:
    """From a message."""
    return RoundEnd(message.checkpoint, message.replanned)


def stage_to_message(stage: Stage) -> pb.Stage:
    """As a message."""
    match stage:
        case Load(date, split):
            return pb.Stage(load=pb.DayData(date=date, split=split))
        case Train():
            return pb.Stage(train=pb.RoundSpan(**vars(stage)))
        case Evaluate():
            return pb.Stage(evaluate=pb.Evaluation(**vars(stage)))
        case Clear(date, split):
            return pb.Stage(clear=pb.DayData(date=date, split=split))
        case End():
            return pb.Stage(end=pb.Empty())


def stage_from_message(message: pb.Stage) -> Stage:
    """From a message.

    Raises:
        BadInput: it names no stage.
    """
    match message.WhichOneof("stage"):
        case "load":
            return Load(message.load.date, message.load.split)
        case "train":
            span = message.train
            return Train(span.date, span.first, span.step, span.rounds, span.left, span.ahead)
        case "evaluate":
            return Evaluate(message.evaluate.date, message.evaluate.step, message.evaluate.day)
        case "clear":
            return Clear(message.clear.date, message.clear.split)
        case "end":
            return End()
    raise BadInput("a stage of the plan that this version does not know")


def key_to_message(rank: int, at: Round) -> pb.RoundKey:
    """A round as a message."""
    return pb.RoundKey(rank=rank, date=at.date, round=at.round, step=at.step)


def sample_request(rank: int, at: Round, rounds: int) -> pb.SampleRequest:
    """Asks for the shares of `rounds` rounds of a day, the first of them `at`."""
    return pb.SampleRequest(key=key_to_message(rank, at), rounds=rounds)


def test_request(rank: int, at: Round, together: int) -> pb.TestRequest:
    """Asks for the share of a test; see `RoundState.test_share`."""
    return pb.TestRequest(key=key_to_message(rank, at), together=together)


def shares_to_messages(shares: Mapping[int, Share]) -> Iterator[pb.Assignment]:
    """Shares by step as messages, at least one for each."""
    for step, share in shares.items():
        for start in range(0, max(1, len(share.uids)), BATCH):
            yield pb.Assignment(
                uids=share.uids[start : start + BATCH],
                counts=share.counts[start : start + BATCH],
                scale_exponent=share.exponent,
                cohort_size=share.cohort_size,
                step=step,
                sizes=share.sizes if start == 0 else (),
                weights=share.weights[start : start + BATCH],
                groups=share.groups if start == 0 else (),
            )


def shares_from_messages(messages: Iterable[pb.Assignment]) -> dict[int, Share]:
    """Puts shares together, by step."""
    shares: dict[int, Share] = {}
    for message in messages:
        share = Share(
            uids=tuple(message.uids),
            counts=tuple(message.counts),
            exponent=message.scale_exponent,
            cohort_size=message.cohort_size,
            sizes=tuple(message.sizes),
            weights=tuple(message.weights),
            groups=tuple(message.groups),
        )
        if (begun := shares.get(message.step)) is not None:
            share = replace(
                begun,
                uids=begun.uids + share.uids,
                counts=begun.counts + share.counts,
                weights=begun.weights + share.weights,
            )
        shares[message.step] = share
    return shares
