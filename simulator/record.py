"""What a run leaves behind: settings, metrics, cohorts and parameters, in its output folder."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from protos.codec import Tensors
from protos.errors import FLError
from scheduler.messages import Layout
from scheduler.metrics import UserResult, ratio, reduce_metrics, user_spread
from scheduler.rounds import TRAIN, RoundRecord

logger = logging.getLogger(__name__)

PACKAGES = ("paddlepaddle", "grpcio", "protobuf", "mpi4py", "numpy", "lmdb")
_FIRST = ["date", "round", "phase", "users", "examples", "loss", "top1"]
_SPREAD = ["top1_user_mean", "top1_user_p10", "top1_user_p50", "top1_user_p90"]
_LAST = ["seconds", "train", "pull", "push", "wait"]
_PARTS = ("config.yaml", "metrics.csv", "per_user.csv", "cohorts.json", "params")


class RunRecord:
    """Writes the record as the run goes, so that a crash leaves all that was known.

    Args:
        folder: of the record; made if missing, and what an earlier run left in it is
            moved into its folder `previous-N`.
        settings: all of them, as plain values.

    Raises:
        FLError: the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._settings = dict(settings)
        self._extra: list[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _set_aside(folder)
            (folder / "params").mkdir()
            (folder / "cohorts.json").write_text("[]", encoding="utf-8")
        except OSError as error:
            raise FLError(f"--output {folder} cannot be written: {error.strerror}") from error

    # -- Listener ------------------------------------------------------------------

    def on_layout(self, layout: Layout) -> None:
        """Writes config.yaml."""
        content = {
            "settings": self._settings,
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "ranks": [{"rank": i.rank, "host": i.host, "shards": i.shards} for i in layout.simulators],
            "days": list(layout.days),
        }
        self._write("config.yaml", yaml.safe_dump(content, sort_keys=False))

    def on_initial(self, params: Tensors) -> None:
        """Writes params/initial.npz."""
        self.save_params("initial", params)

    def on_record(self, record: RoundRecord) -> None:
        """Adds rows to metrics.csv, and to cohorts.json or per_user.csv."""
        metrics = reduce_metrics(record.results)
        if self._extra is None:
            self._extra = sorted(set(metrics) - {"loss", "top1"})
            self._append("metrics.csv", [[*_FIRST, *self._extra, *_SPREAD, *_LAST]])
        values = {name: ratio(pair) for name, pair in metrics.items()}
        row: list[Any] = [record.at.date, record.at.round, record.phase, len(record.results)]
        row += [sum(r.examples for r in record.results)]
        row += [_number(values.get(name)) for name in ["loss", "top1", *self._extra]]
        if record.phase == TRAIN:
            row += [""] * len(_SPREAD)
            self._add_cohort([r.uid for r in record.results])
        else:
            spread = user_spread(record.results, "top1")
            row += [_number(spread[key]) for key in ("mean", "p10", "p50", "p90")]
            self._add_users(record)
        times = (record.seconds, *(getattr(record.timings, name) for name in _LAST[1:]))
        self._append("metrics.csv", [[*row, *(f"{seconds:.6f}" for seconds in times)]])

    # -- parameters ------------------------------------------------------------------

    def save_params(self, name: str, params: Tensors) -> None:
        """Writes params/NAME.npz, keys are the parameters' names."""
        write_npz(self.folder / "params" / f"{name}.npz", params)

    # -- inside ------------------------------------------------------------------------

    def _add_cohort(self, uids: list[str]) -> None:
        """Puts one cohort before the closing bracket: the file is whole JSON after every round."""
        try:
            with (self.folder / "cohorts.json").open("rb+") as file:
                end = file.seek(-1, os.SEEK_END)
                text = json.dumps(uids, ensure_ascii=False)
                file.write(f"{',' if end > 1 else ''}\n{text}]".encode())
        except OSError as error:
            raise self._refusal("cohorts.json", error) from error

    def _add_users(self, record: RoundRecord) -> None:
        names = sorted({name for r in record.results for name in r.metrics})
        rows: list[list[Any]] = []
        if not (self.folder / "per_user.csv").exists():
            columns = [column for name in names for column in (name, f"{name}_count")]
            rows.append(["date", "round", "uid", "examples", *columns])
        rows += [[record.at.date, record.at.round, *_user_row(r, names)] for r in record.results]
        self._append("per_user.csv", rows)

    def _append(self, name: str, rows: Iterable[Iterable[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise self._refusal(name, error) from error

    def _write(self, name: str, text: str) -> None:
        try:
            (self.folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise self._refusal(name, error) from error

    def _refusal(self, name: str, error: OSError) -> FLError:
        return FLError(f"{self.folder / name} cannot be written: {error.strerror}; the run cannot keep its record")


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes an NPZ file, whole or not at all.

    Raises:
        FLError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)
    except OSError as error:
        raise FLError(f"{path} cannot be written: {error.strerror}") from error


def read_npz(path: Path, what: str) -> Tensors:
    """Reads an NPZ file; nothing in it is unpickled.

    Raises:
        FLError: it cannot be read or is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, KeyError) as error:
        raise FLError(f"{what} {path}: cannot be read as an NPZ file of arrays: {error}") from error


def _user_row(result: UserResult, names: list[str]) -> list[Any]:
    row: list[Any] = [result.uid, result.examples]
    for name in names:
        pair = result.metrics.get(name)
        row += ["", ""] if pair is None else [_number(ratio(pair)), _number(pair[1])]
    return row


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
