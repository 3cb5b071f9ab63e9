"""What a run leaves behind: settings, metrics, cohorts and parameters, in its output folder."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import platform
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from protos.codec import Array, Tensors
from protos.errors import FLError
from scheduler.messages import Layout
from scheduler.metrics import SPREAD, TIMES, mean_metrics, ratio, user_spread
from scheduler.rounds import TRAIN, RoundRecord

logger = logging.getLogger(__name__)

PACKAGES = ("paddlepaddle", "grpcio", "protobuf", "mpi4py", "numpy", "lmdb")
_FIRST = ["date", "round", "phase", "users", "examples", "loss", "top1"]
_TABLES = ("metrics.csv", "per_user.csv")
_COHORTS = "cohorts.json"
_PARTS = ("config.yaml", "metrics.csv", "per_user.csv", "cohorts.json", "params", "checkpoints")


class RunRecord:
    """Writes the record as the run goes, so that a crash leaves all that was known.

    Args:
        folder: of the record; made if missing, and what an earlier run left in it is
            moved into its folder `previous-N`.
        settings: all of them, as plain values.
        resumed: whether what is there goes on, see `cut`.

    Raises:
        FLError: the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resumed: bool = False) -> None:
        self.folder = folder
        self._settings = dict(settings)
        self._columns: dict[str, list[str]] = {}
        self._rows = dict.fromkeys(_TABLES, 0)
        self._cohorts = 0
        self._resumed = resumed
        if resumed:
            return
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
        content: dict[str, Any] = {
            "settings": self._settings,
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
            self.save_params("initial", params)

    def on_record(self, record: RoundRecord) -> None:
        """Adds rows to metrics.csv, and to cohorts.json or per_user.csv."""
        values = mean_metrics(record.results)
        row: dict[str, Any] = {"date": record.at.date, "round": record.at.round, "phase": record.phase}
        row |= {"users": len(record.results), "examples": sum(r.examples for r in record.results)}
        row |= {name: _number(value) for name, value in values.items()}
        if record.phase == TRAIN:
            self._add_cohort([r.uid for r in record.results])
        else:
            spread = user_spread(record.results, "top1")
            row |= {f"top1_user_{key}": _number(value) for key, value in spread.items()}
            self._add_users(record)
        times = {"seconds": record.seconds, **{name: getattr(record.timings, name) for name in TIMES[1:]}}
        row |= {name: f"{seconds:.6f}" for name, seconds in times.items()}
        self._add_rows("metrics.csv", _FIRST, sorted(set(values) - set(_FIRST)), [*SPREAD, *TIMES], [row])

    # -- checkpoints -----------------------------------------------------------------

    def mark(self) -> dict[str, int]:
        """How many rows and cohorts there are, once they are on the disk itself."""
        for name in (*_TABLES, _COHORTS):
            try:
                with (self.folder / name).open("rb+") as file:
                    os.fsync(file.fileno())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._refusal(name, error) from error
        return {**self._rows, _COHORTS: self._cohorts}

    def cut(self, marks: Mapping[str, int], step: int) -> None:
        """Goes back to what was there when `mark` gave these numbers, after `step` rounds of the run.

        Raises:
            FLError: there is less.
        """
        try:
            for name in _TABLES:
                self._cut_table(name, marks[name])
            cohorts = json.loads((self.folder / _COHORTS).read_text(encoding="utf-8"))[: marks[_COHORTS]]
            if len(cohorts) < marks[_COHORTS]:
                raise self._too_short(_COHORTS)
            lines = ",".join("\n" + json.dumps(uids, ensure_ascii=False) for uids in cohorts)
            _replace_text(self.folder / _COHORTS, f"[{lines}]")
        except OSError as error:
            raise FLError(f"the record in {self.folder} cannot be gone on with: {error}") from error
        except ValueError as error:
            raise self._too_short(_COHORTS) from error
        self._cohorts = marks[_COHORTS]
        content = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        content["resumed_after_rounds"] = [*self._earlier_resumes(), step]
        self._write("config.yaml", yaml.safe_dump(content, sort_keys=False))

    def _earlier_resumes(self) -> list[int]:
        try:
            content = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return []
        return list(content.get("resumed_after_rounds", []))

    def _cut_table(self, name: str, rows: int) -> None:
        path = self.folder / name
        self._rows[name] = rows
        if not rows:
            path.unlink(missing_ok=True)
            return
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            kept = list(islice(reader, rows))
            columns = list(reader.fieldnames or [])
        if len(kept) < rows:
            raise self._too_short(name)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(kept)
        _replace_text(path, text.getvalue())
        self._columns[name] = columns

    def _too_short(self, name: str) -> FLError:
        return FLError(
            f"{self.folder / name} holds less than its checkpoint knows: start the run again without --resume"
        )

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
            self._cohorts += 1
        except OSError as error:
            raise self._refusal("cohorts.json", error) from error

    def _add_users(self, record: RoundRecord) -> None:
        names = sorted({name for r in record.results for name in r.metrics})
        columns = [column for name in names for column in (name, f"{name}_count")]
        rows = []
        for r in record.results:
            row = {"date": record.at.date, "round": record.at.round, "uid": r.uid, "examples": r.examples}
            for name, pair in r.metrics.items():
                row |= {name: _number(ratio(pair)), f"{name}_count": _number(pair[1])}
            rows.append(row)
        self._add_rows("per_user.csv", ["date", "round", "uid", "examples"], columns, [], rows)

    def _add_rows(
        self, name: str, first: list[str], extra: list[str], last: list[str], rows: list[dict[str, Any]]
    ) -> None:
        """Adds rows to a CSV file; columns that are new, as a metric only tests have, go between first and last."""
        path = self.folder / name
        known = self._columns.get(name)
        columns = [*first, *sorted({*(known or [])[len(first) : len(known or []) - len(last)], *extra}), *last]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        try:
            if columns == known:
                writer.writerows(rows)
                with path.open("a", encoding="utf-8") as file:
                    file.write(text.getvalue())
                self._rows[name] += len(rows)
                return
            writer.writeheader()
            if known:
                with path.open(encoding="utf-8", newline="") as file:
                    writer.writerows(csv.DictReader(file))
            writer.writerows(rows)
            _replace_text(path, text.getvalue())
        except OSError as error:
            raise self._refusal(name, error) from error
        self._columns[name] = columns
        self._rows[name] += len(rows)

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
            write_arrays(file, arrays)
        temporary.replace(path)
    except OSError as error:
        raise FLError(f"{path} cannot be written: {error.strerror}") from error


def write_arrays(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Writes arrays as NumPy's `savez` does, without the large buffers it fills on the way."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            whole = np.ascontiguousarray(array).reshape(array.shape)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, np.lib.format.header_data_from_array_1_0(whole))
                entry.write(whole.reshape(-1).view(np.uint8).data)


def read_npz(path: Path, what: str) -> Tensors:
    """Reads an NPZ file; nothing in it is unpickled.

    Raises:
        FLError: it cannot be read or is no such file.
    """
    try:
        # A pipe or a device would be waited for, perhaps for ever.
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        # zipfile, zlib and NumPy raise a dozen kinds for damaged files.
        raise FLError(f"{what} {path}: cannot be read as an NPZ file of arrays: {_damage(error)}") from error
    for name, value in arrays.items():
        # A member that is no NPY file comes as bytes.
        if not isinstance(value, np.ndarray):
            raise FLError(f"{what} {path}: cannot be read as an NPZ file of arrays: {name} in it is no array")
    return arrays


def _damage(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"an array in it is larger than the memory there is ({said})"
    if "pickle" in said:
        return "it holds objects, not plain arrays; save it with numpy.savez(file, **arrays)"
    if isinstance(error, AttributeError | TypeError):
        return "it holds one array without a name; save it with numpy.savez(file, **arrays)"
    return said[:300] or type(error).__name__


def _replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
