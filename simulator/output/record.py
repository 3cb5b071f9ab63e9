"""What a run leaves behind: settings, metrics, cohorts and parameters, in its output folder."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from protos.codec import Tensors
from protos.errors import FLError
from scheduler.rules.metrics import (
    NEW,
    PERSONAL,
    TIMES,
    mean_metrics,
    ratio,
    spread_columns,
    user_histogram,
    user_spread,
)
from scheduler.service.messages import Layout
from scheduler.state.checkpoints import Marks
from scheduler.state.global_model import OF
from scheduler.state.rounds import TRAIN, RoundRecord
from simulator.npz import write_npz
from simulator.output.record_files import NOTHING, Cohorts, Table

logger = logging.getLogger(__name__)

PACKAGES = ("paddlepaddle", "grpcio", "protobuf", "mpi4py", "numpy", "lmdb")
_FIRST = ["date", "round", "phase", "users", "examples", "loss"]
_WAITING = ["date", "round", "phase", "uid", "turn", "wait", "seconds"]
_FAIRNESS = ["date", "round", "metric", "low", "high", "users"]
_PARTS = (
    "config.yaml",
    "metrics.csv",
    "per_user.csv",
    "fairness.csv",
    "waiting.csv",
    "cohorts.json",
    "params",
    "checkpoints",
)


class RunRecord:
    """Writes the record as the run goes, so that a crash leaves all that was known.

    Args:
        folder: of the record; made if missing, and what an earlier run left in it is
            moved into its folder `previous-N`.
        settings: all of them, as plain values.
        pieces: what the page has set, in words.
        result: name of the metric that is the result, of which the record tells how users differ; None for none.
        higher_is_better: whether the users with the lowest results are the worst.
        resumed: whether what is there goes on, see `cut`.

    Raises:
        FLError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        pieces: Mapping[str, Mapping[str, str]] | None = None,
        result: str | None = None,
        higher_is_better: bool = True,
        resumed: bool = False,
    ) -> None:
        self.folder = folder
        self._settings, self._pieces = dict(settings), dict(pieces or {})
        self._result, self._higher = result, higher_is_better
        # Columns that metrics.csv begins with, and that it ends with.
        self._first = list(dict.fromkeys([*_FIRST, *([] if result is None else [result])]))
        self._last = [*([] if result is None else spread_columns(result)), *TIMES]
        self._metrics = Table(folder / "metrics.csv")
        self._per_user = Table(folder / "per_user.csv")
        self._fairness = Table(folder / "fairness.csv")
        self._cohorts = Cohorts(folder / "cohorts.json")
        self._waiting = Table(folder / "waiting.csv")
        growing = (self._metrics, self._per_user, self._fairness, self._cohorts, self._waiting)
        self._growing = {file.path.name: file for file in growing}
        self._resumed = resumed
        if resumed:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _set_aside(folder)
            (folder / "params").mkdir()
            self._cohorts.begin()
        except OSError as error:
            raise FLError(f"--output {folder} cannot be written: {error.strerror}") from error

    # -- Listener ------------------------------------------------------------------

    def on_layout(self, layout: Layout) -> None:
        """Writes config.yaml."""
        content: dict[str, Any] = {
            "settings": self._settings,
            "pieces": self._pieces,
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "ranks": [{"rank": i.rank, "host": i.host, "shards": i.shards} for i in layout.simulators],
            "days": list(layout.days),
        }
        if self._resumed:
            content["resumed_after_rounds"] = self._earlier_resumes()
        self._write("config.yaml", yaml.safe_dump(content, sort_keys=False))

    def on_initial(self, params: Tensors) -> None:
        """Writes params/initial.npz."""
        if not self._resumed:
            # Groups of an algorithm begin with zeros.
            self.save_params("initial", {key: value for key, value in params.items() if OF not in key})

    def on_record(self, record: RoundRecord, rates: Mapping[str, float] = MappingProxyType({})) -> None:
        """Adds rows to metrics.csv, to cohorts.json or per_user.csv and fairness.csv, and to waiting.csv.

        Args:
            record: of a round or a test.
            rates: learning rates of the round that are not the same in all.
        """
        values = {**rates, **mean_metrics(record.results)}
        row: dict[str, Any] = {"date": record.at.date, "round": record.at.round, "phase": record.phase}
        known = [r for r in record.results if not r.new]
        row |= {"users": len(known), "examples": sum(r.examples for r in known)}
        extra = {name: _number(value) for name, value in values.items()}
        if len(known) < len(record.results):
            extra[f"{NEW}users"] = str(len(record.results) - len(known))
        if record.phase == TRAIN:
            self._cohorts.add([r.uid for r in record.results])
        else:
            for name in self._results_of(values):
                spread = user_spread(record.results, name, higher_is_better=self._higher)
                extra |= dict(zip(spread_columns(name), map(_number, spread.values()), strict=True))
            self._add_users(record)
            self._add_histograms(record, self._results_of(values))
        row |= extra
        times = {"seconds": record.seconds, **{name: getattr(record.timings, name) for name in TIMES[1:]}}
        row |= {name: f"{seconds:.6f}" for name, seconds in times.items()}
        if record.timings.last:
            turn = {"uid": record.timings.last, "turn": f"{record.timings.turn:.6f}"}
            self._waiting.add(_WAITING, [], [], [row | turn])
        self._metrics.add(self._first, set(extra) - {*self._first, *self._last}, self._last, [row])

    # -- checkpoints -----------------------------------------------------------------

    @property
    def is_there(self) -> bool:
        """Whether nobody has removed what a resumed run needs."""
        return all((self.folder / name).is_file() for name in ("config.yaml", "cohorts.json"))

    def mark(self) -> Marks:
        """How far its growing files go."""
        return {name: file.mark() for name, file in self._growing.items()}

    def sync(self) -> None:
        """Returns when they are on the disk itself.

        Raises:
            FLError: one cannot be written.
        """
        for file in self._growing.values():
            file.sync()

    def check(self, marks: Marks) -> None:
        """Whether all is there that was when `mark` gave these.

        Raises:
            BadInput: a file that is cut off or was changed.
        """
        for name, file in self._growing.items():
            file.check(marks.get(name, NOTHING))

    def cut(self, marks: Marks, step: int) -> None:
        """Goes back to what was there when `mark` gave these, after `step` rounds of the run.

        Raises:
            BadInput: as `check`; nothing has changed.
            FLError: a file cannot be written.
        """
        self.check(marks)
        for name, file in self._growing.items():
            file.cut(marks.get(name, NOTHING))
        try:
            # Of an end that is the end no more.
            for path in (self.folder / "params").glob("final*.npz"):
                path.unlink()
            content = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise FLError(f"the record in {self.folder} cannot be gone on with: {error}") from error
        content["resumed_after_rounds"] = [*self._earlier_resumes(), step]
        self._write("config.yaml", yaml.safe_dump(content, sort_keys=False))

    def _earlier_resumes(self) -> list[int]:
        try:
            content = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return []
        return list(content.get("resumed_after_rounds", []))

    # -- parameters ------------------------------------------------------------------

    def save_params(self, name: str, params: Tensors) -> None:
        """Writes params/NAME.npz, and for each group of an algorithm params/NAME.GROUP.npz; keys are the arrays'."""
        files: dict[str, Tensors] = {name: {}}
        for key, value in params.items():
            group, _, array = key.rpartition(OF)
            files.setdefault(f"{name}.{group}" if group else name, {})[array] = value
        for file, arrays in files.items():
            write_npz(self.folder / "params" / f"{file}.npz", arrays)

    # -- inside ------------------------------------------------------------------------

    def _add_users(self, record: RoundRecord) -> None:
        names = sorted({name for r in record.results for name in r.metrics})
        columns = [column for name in names for column in (name, f"{name}_count")]
        rows = []
        for r in record.results:
            row = {"date": record.at.date, "round": record.at.round, "uid": r.uid, "examples": r.examples}
            for name, pair in r.metrics.items():
                row |= {name: _number(ratio(pair)), f"{name}_count": _number(pair[1])}
            rows.append(row)
        self._per_user.add(["date", "round", "uid", "examples"], columns, [], rows)

    def _results_of(self, metrics: Iterable[str]) -> list[str]:
        """The result of a test, and the same of users' own models and of new users, as far as there are such."""
        if self._result is None:
            return []
        each = [f"{new}{personal}{self._result}" for new in ("", NEW) for personal in ("", PERSONAL)]
        return [name for name in each if name in metrics]

    def _add_histograms(self, record: RoundRecord, names: Sequence[str]) -> None:
        rows = [
            {"date": record.at.date, "round": record.at.round, "metric": name, "low": _number(each.low),
             "high": _number(each.high), "users": each.users}
            for name in names for each in user_histogram(record.results, name)
        ]  # fmt: skip
        if rows:
            self._fairness.add(_FAIRNESS, [], [], rows)

    def _write(self, name: str, text: str) -> None:
        """Writes a small file whole or not at all."""
        temporary = self.folder / f".{name}.part"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.folder / name)
        except OSError as error:
            raise FLError(
                f"{self.folder / name} cannot be written: {error.strerror}; the run cannot keep its record"
            ) from error


def _number(value: float | None) -> str:
    """All digits a float has, so that equal runs have equal records."""
    return "" if value is None or value != value else repr(float(value))


def _set_aside(folder: Path) -> None:
    old = [folder / part for part in _PARTS if (folder / part).exists()]
    if not old:
        return
    number = 1
    while (folder / f"previous-{number}").exists():
        number += 1
    target = folder / f"previous-{number}"
    target.mkdir()
    for part in old:
        part.rename(target / part.name)
    logger.info("the record of an earlier run was moved to %s", target)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
