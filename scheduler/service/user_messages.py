"""Between the messages that tell a day's users and the scheduler's own types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from protos.errors import BadInput, TooLarge
from protos.stubs import scheduler_server_pb2 as pb
from scheduler.service.messages import BATCH
from scheduler.state.bounds import MAX_USERS, check_date, check_uid, check_weight
from scheduler.state.read_users import ReadUsers

# Of one user.
MAX_EXAMPLES = 1 << 40


def _batches(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(uids), BATCH):
        yield uids[start : start + BATCH]


def users_to_messages(rank: int, date: str, split: str, users: ReadUsers) -> Iterator[pb.UserInstNum]:
    """A day's users as messages, at least one."""
    weighed = [uid for uid in users.counts if uid in users.weights]
    others = [uid for uid in users.counts if uid not in users.weights]
    for batch in [*_batches(weighed), *_batches(others)] or [[]]:
        yield pb.UserInstNum(
            rank=rank,
            date=date,
            split=split,
            uids=batch,
            counts=[users.counts[uid] for uid in batch],
            weights=[users.weights[uid] for uid in batch if uid in users.weights],
        )


def users_from_messages(
    messages: Iterable[pb.UserInstNum], check: Callable[[int, str, str], None] | None = None
) -> tuple[int, str, str, ReadUsers]:
    """Rank, date, split and users.

    Args:
        messages: of the call.
        check: told rank, date and split as soon as they are known; raises if they cannot be right.

    Raises:
        BadInput: no message, as many uids as counts or weights not, a uid twice, a number that cannot be.
        TooLarge: too many users.
    """
    rank, date, split = 0, "", ""
    users = ReadUsers()
    for number, message in enumerate(messages):
        if number == 0:
            rank, date, split = message.rank, check_date(message.date), message.split
            if check is not None:
                check(rank, date, split)
        elif not message.uids:
            raise BadInput(f"rank {rank}, date {date}: a message without users after the first")
        if len(message.uids) != len(message.counts):
            raise BadInput(f"rank {rank}: {len(message.uids)} uids but {len(message.counts)} counts")
        if len(message.weights) not in (0, len(message.uids)):
            raise BadInput(f"rank {rank}: {len(message.uids)} uids but {len(message.weights)} weights")
        if len(users.counts) + len(message.uids) > MAX_USERS:
            raise TooLarge(f"rank {rank}, date {date}: more than {MAX_USERS} users")
        weights = message.weights or [None] * len(message.uids)
        for uid, count, weight in zip(message.uids, message.counts, weights, strict=True):
            if uid in users.counts:
                raise BadInput(f"rank {rank}, date {date}: uid {uid!r} came twice")
            if count > MAX_EXAMPLES:
                raise BadInput(f"rank {rank}, date {date}: uid {uid!r} has {count} examples, more than {MAX_EXAMPLES}")
            users.add(check_uid(uid), count, None if weight is None else check_weight(uid, weight))
    if not date:
        raise BadInput("an empty stream of user counts")
    return rank, date, split, users


def names_to_messages(uids: Sequence[str]) -> Iterator[pb.UserNames]:
    """Uids as messages; none if there are none."""
    for batch in _batches(uids):
        yield pb.UserNames(uids=batch)


def weights_to_messages(rank: int, date: str, weights: Mapping[str, float]) -> Iterator[pb.UserWeights]:
    """Users' weights as messages."""
    for batch in _batches(list(weights)):
        yield pb.UserWeights(rank=rank, date=date, uids=batch, weights=[weights[uid] for uid in batch])


def weights_from_messages(
    messages: Iterable[pb.UserWeights], check: Callable[[int, str], None]
) -> tuple[int, str, dict[str, float]]:
    """Rank, date and weights; see `users_from_messages`."""
    rank, date = 0, ""
    weights: dict[str, float] = {}
    for number, message in enumerate(messages):
        if number == 0:
            rank, date = message.rank, check_date(message.date)
            check(rank, date)
        if not message.uids:
            raise BadInput(f"rank {rank}, date {date}: a message of weights without users")
        if len(message.uids) != len(message.weights):
            raise BadInput(f"rank {rank}: {len(message.uids)} uids but {len(message.weights)} weights")
        if len(weights) + len(message.uids) > MAX_USERS:
            raise TooLarge(f"rank {rank}, date {date}: more than {MAX_USERS} users")
        for uid, weight in zip(message.uids, message.weights, strict=True):
            if uid in weights:
                raise BadInput(f"rank {rank}, date {date}: uid {uid!r} came twice")
            weights[check_uid(uid)] = check_weight(uid, weight)
    if not date:
        raise BadInput("an empty stream of weights")
    return rank, date, weights
