"""What has come of a run, read from its record."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from protos.codec import Tensors
from protos.errors import FLError
from scheduler.rules.metrics import NEW
from scheduler.state.rounds import TEST
from simulator.npz import read_npz

Value: TypeAlias = str | int | float
Columns: TypeAlias = dict[str, list[Value]]

_WORDS = frozenset(["date", "phase", "uid"])
_WHOLE = frozenset(["round", "users", "examples", f"{NEW}users"])


@dataclass(frozen=True)
class RunResult:
    """A run that is complete.

    Attributes:
        folder: of its record.
        metrics: the columns of metrics.csv, one entry a round or test; NaN where there is no value.
        users: the columns of per_user.csv, one entry for each user of the last test; empty without a test.
        params: the shared parameters at the end, by name.
        stopped: why a callback had it stop before its last round; None if none did.
        metric: name of the metric that is the result; None if nothing was tested.
        value: of that metric in the last test; None if nothing was tested.
    """

    folder: Path
    metrics: Columns = field(repr=False)
    users: Columns = field(repr=False)
    params: Tensors = field(repr=False)
    stopped: str | None = None
    metric: str | None = None
    value: float | None = None


def read_result(folder: Path, result: str | None = None, stopped: str | None = None) -> RunResult:
    """What a run has left in its record.

    Args:
        folder: of the record.
        result: the metric that is the result; None, or one that no test has, for the first that the last test has.
        stopped: why it stopped before its last round.

    Raises:
        FLError: a file of the record is missing or cannot be read.
    """
    metrics, users = _columns(_rows(folder / "metrics.csv")), _last_users(folder / "per_user.csv")
    params = read_npz(folder / "params" / "final.npz", "the record's")
    metric, value = _result(metrics, users, result)
    return RunResult(folder, metrics, users, params, stopped, metric, value)


def _result(metrics: Columns, users: Columns, wanted: str | None) -> tuple[str | None, float | None]:
    """Name and value of the result in the last test, which may be NaN."""
    tests = [row for row, phase in enumerate(metrics.get("phase", ())) if phase == TEST]
    # A metric of the last test has counts there.
    known = [name for name in metrics if any(count == count for count in users.get(f"{name}_count", ()))]
    if not tests or not known:
        return None, None
    name = wanted if wanted in known else min([name for name in known if not name.startswith(NEW)] or known)
    return name, float(metrics[name][tests[-1]])


def _last_users(path: Path) -> Columns:
    """The rows of the last test."""
    last: list[Mapping[str, str]] = []
    for row in _rows(path):
        if last and (row["date"], row["round"]) != (last[0]["date"], last[0]["round"]):
            last = []
        last.append(row)
    return _columns(iter(last))


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    """The rows of a file; none if it is not there: it is made with its first row."""
    try:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise FLError(f"{path} cannot be read: {error}") from error


def _columns(rows: Iterator[Mapping[str, str]]) -> Columns:
    columns: Columns = {}
    for row in rows:
        for name, text in row.items():
            columns.setdefault(name, []).append(_value(name, text))
    return columns


def _value(name: str, text: str) -> Value:
    if name in _WORDS:
        return text
    if name in _WHOLE and text:
        return int(text)
    return float(text) if text else float("nan")
