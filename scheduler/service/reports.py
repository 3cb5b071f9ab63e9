"""Between the messages of a report and a round's results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from protos.errors import BadInput, TooLarge, WrongState
from protos.stubs import scheduler_server_pb2 as pb
from scheduler.rules.metrics import UserResult, is_column
from scheduler.rules.samplers import Round
from scheduler.service.messages import BATCH, key_to_message
from scheduler.state.bounds import MAX_USERS, check_date, check_name, check_uid, check_weight
from scheduler.state.rounds import Timings

MAX_METRICS = 100


def result_to_message(result: UserResult) -> pb.UserResult:
    """One user's result as a message."""
    metrics = {name: pb.Metric(sum=total, count=count) for name, (total, count) in result.metrics.items()}
    message = pb.UserResult(uid=result.uid, examples=result.examples, weight=result.weight, metrics=metrics)
    for name, (total, count) in result.scalars.items():
        message.scalars[name].CopyFrom(pb.Metric(sum=total, count=count))
    return message


def result_from_message(message: pb.UserResult) -> UserResult:
    """One user's result from a message.

    Raises:
        TooLarge: a uid or a metric's name beyond its bound, too many metrics.
        BadInput: a weight that is none, a metric's count that is negative or not finite, a scalar that is not finite.
    """
    uid = check_uid(message.uid)
    for what, pairs in (("metrics", message.metrics), ("scalars", message.scalars)):
        if len(pairs) > MAX_METRICS:
            raise TooLarge(f"uid {uid!r}: {len(pairs)} {what}; at most {MAX_METRICS} are allowed")
    check_weight(uid, message.weight)
    metrics = {}
    for name, pair in message.metrics.items():
        check_name(f"uid {uid!r}: a metric's name", name)
        if is_column(name):
            raise BadInput(f"uid {uid!r}: a metric is called {name!r}, like a column of the record; rename it")
        # A sum may well be NaN: that a user diverged in a test is a result.
        if not (math.isfinite(pair.count) and pair.count >= 0):
            raise BadInput(f"uid {uid!r}: metric {name!r} has a count of {pair.count}; it must be finite, not negative")
        metrics[name] = (pair.sum, pair.count)
    scalars = {}
    for name, pair in message.scalars.items():
        check_name(f"uid {uid!r}: a scalar's name", name)
        if not (math.isfinite(pair.sum) and math.isfinite(pair.count) and pair.count >= 0):
            raise BadInput(
                f"uid {uid!r}: scalar {name!r} is ({pair.sum}, {pair.count}): its training diverged; lower --lr"
            )
        scalars[name] = (pair.sum, pair.count)
    return UserResult(uid, message.examples, message.weight, metrics, scalars)


def report_head(rank: int, at: Round, results: Sequence[UserResult]) -> Iterator[pb.RoundReport]:
    """The reports before the tensors: the round and its users."""
    for start in range(0, max(1, len(results)), BATCH):
        users = [result_to_message(r) for r in results[start : start + BATCH]]
        yield pb.RoundReport(key=key_to_message(rank, at) if start == 0 else None, users=users)


def report_tail(timings: Timings) -> pb.RoundReport:
    """The report after the tensors: where the time went."""
    return pb.RoundReport(timings=pb.Timings(**vars(timings)))


class ReportReader:
    """Puts a report together from its messages.

    Args:
        seed: of the run.
        users: told rank and round as soon as they are known; returns how many users the
            report may have, or raises if it cannot be right now.
    """

    def __init__(self, seed: int, users: Callable[[int, Round], int] | None = None) -> None:
        self._seed = seed
        self._users = users
        self._limit = MAX_USERS
        self._names: set[str] = set()
        self._scalars: set[str] = set()
        self.rank = -1
        self.at: Round | None = None
        self.results: list[UserResult] = []
        self.timings: Timings | None = None

    def add(self, message: pb.RoundReport) -> None:
        """Takes the next message.

        Raises:
            BadInput: the first names no round, one comes after the end, or times that are none.
            TooLarge: too many metrics.
            WrongState: more users than the share has.
        """
        if self.timings is not None:
            raise BadInput("a report came after the last one")
        if self.at is None:
            self._begin(message)
        elif not message.users and not message.HasField("timings"):
            raise BadInput(f"rank {self.rank}: an empty report after the first one")
        if len(self.results) + len(message.users) > self._limit:
            raise WrongState(
                f"rank {self.rank}'s users are not those of its share: "
                f"{len(self.results) + len(message.users)} or more came, it has {self._limit}"
            )
        for user in message.users:
            self._take(result_from_message(user))
        if message.HasField("timings"):
            self._end(message.timings)

    def _begin(self, message: pb.RoundReport) -> None:
        if not message.HasField("key"):
            raise BadInput("the first report names no round")
        key = message.key
        self.rank, self.at = key.rank, Round(self._seed, check_date(key.date), key.round, key.step)
        if self._users is not None:
            self._limit = self._users(self.rank, self.at)

    def _take(self, result: UserResult) -> None:
        for names, what, here in (
            (self._names, "metrics", result.metrics), (self._scalars, "scalars", result.scalars),
        ):  # fmt: skip
            names.update(here)
            if len(names) > MAX_METRICS:
                raise TooLarge(f"rank {self.rank}: the users have more than {MAX_METRICS} different {what}")
        self.results.append(result)

    def _end(self, t: pb.Timings) -> None:
        times = (t.pull, t.train, t.push, t.wait)
        if not all(math.isfinite(s) and s >= 0 for s in (*times, t.turn, t.apart)):
            raise BadInput(f"rank {self.rank}: {Timings(*times)}: times must be finite and not negative")
        if t.last and all(result.uid != t.last for result in self.results):
            raise BadInput(
                f"rank {self.rank}: uid {t.last[:40]!r} came as the last that was trained; it is none of its"
            )
        self.timings = Timings(*times, t.last, t.turn, t.apart)

    def finish(self) -> tuple[int, Round, list[UserResult], Timings]:
        """Rank, round, results and timings.

        Raises:
            BadInput: the stream ended before the report did.
        """
        if self.at is None or self.timings is None:
            raise BadInput("the stream ended before its report was complete")
        return self.rank, self.at, self.results, self.timings
