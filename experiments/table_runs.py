"""The runs of a table: data made once a seed, a folder a run."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from table import HERE, Row, Table, TableError

ROOT = HERE.parent
# Of what a run has printed, when it fails.
LAST_LINES = 5


@dataclass(frozen=True)
class Runs:
    """Makes runs, or finds those that are there.

    Attributes:
        table: of the runs.
        folder: where all of them go.
        sources: folders of sets, by name.
        rounds: instead of the table's.
        shards: of each run.
    """

    table: Table
    folder: Path
    sources: Mapping[str, str]
    rounds: int | None = None
    shards: int | None = None

    def __post_init__(self) -> None:
        for name, what in self.table.sources.items():
            if name not in self.sources:
                raise TableError(f"this table needs --source {name}=FOLDER: {what}")

    def figure(self, row: Row, seed: int) -> float:
        """The figure of a row with a seed.

        Raises:
            TableError: the run has failed.
        """
        data = self._data(row, seed)
        settings = {**self.table.settings, **row.settings, "seed": seed}
        if self.rounds is not None:
            settings["rounds"] = self.rounds
        told = json.dumps([self.table.page, data.name, settings], sort_keys=True)
        # Rows that differ in what is read off a run alone share it.
        folder = self.folder / f"{_slug(str(settings.get('algorithm', 'fedavg')))}-{_digest(told)}"
        done = folder / "done.json"
        if not done.is_file():
            flags = [_flag(name, value) for name, value in settings.items()]
            shards = [] if self.shards is None else [f"--shards={self.shards}"]
            page = [sys.executable, str(ROOT / self.table.page), str(data), *flags, *shards]
            _run([*page, f"--output={folder}", "--resume=auto"], f"{row.name}, seed {seed}")
            done.write_text(told, encoding="utf-8")
        return self._read(folder / "metrics.csv", row.metric or self.table.metric)

    def _data(self, row: Row, seed: int) -> Path:
        command = row.data or self.table.data
        out = self.folder / f"data-{_digest(command)}-seed-{seed}"
        if not out.is_dir():
            stage = out.with_name(f"{out.name}.part")
            shutil.rmtree(stage, ignore_errors=True)
            stage.parent.mkdir(parents=True, exist_ok=True)
            given = {**self.sources, "out": str(stage), "seed": str(seed)}
            words = [word.format(**given) for word in shlex.split(command)]
            _run([sys.executable, *words[1:]] if words[0] == "python" else words, f"data of seed {seed}")
            stage.rename(out)
        return out

    def _read(self, path: Path, metric: str) -> float:
        with path.open(encoding="utf-8", newline="") as file:
            tests = [row for row in csv.DictReader(file) if row["phase"] == "test"][-self.table.tests :]
        if not tests or not tests[0].get(metric):
            raise TableError(f"{path} has no test with the metric {metric!r}")
        return statistics.mean(float(row[metric]) for row in tests)


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
        raise TableError(f"{what}: {shlex.join(command)} ends with status {done.returncode}:\n{last}")


def _flag(name: str, value: object) -> str:
    name = name.replace("_", "-")
    return f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
