"""A table of experiments: what it says, and how it is written."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

HERE = Path(__file__).resolve().parent
# Of one row, a figure a seed.
Figures: TypeAlias = Sequence[float]


class TableError(Exception):
    """A table that cannot be run, in one line."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: what stands at its beginning.
        settings: of its runs, beside those of the table.
        published: the figure it is held against, if there is one.
        metric: instead of the table's.
        data: instead of the table's.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None
    metric: str | None = None
    data: str | None = None


@dataclass(frozen=True)
class Table:
    """A file of tables/.

    Attributes:
        name: of the file.
        title: a line.
        page: that is run, a path of the project.
        data: the command that makes the data; {out} and {seed} stand for these, {NAME} for a source's folder.
        source: of the published figures.
        rows: its lines.
        settings: of all runs.
        sources: sets that lie elsewhere, by name: what is needed.
        metric: the column of metrics.csv that is compared.
        tests: of how many tests at the end the mean is taken.
    """

    name: str
    title: str
    page: str
    data: str
    source: str
    rows: Sequence[Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    metric: str = "top1"
    tests: int = 1


def load(name: str) -> Table:
    """Reads a table.

    Raises:
        TableError: there is none of this name, or it says something that a table does not know.
    """
    path = HERE / "tables" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise TableError(f"there is no table {name!r}; there are {there}")
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        rows = [Row(**row) for row in told.pop("rows")]
        return Table(name, rows=rows, **told)
    except (TypeError, KeyError) as error:
        raise TableError(f"{path}: {error}") from error


def markdown(table: Table, found: Sequence[tuple[Row, Figures]], rounds: int | None) -> str:
    """The table with what was found, and the published figures beside it."""
    short = "" if rounds is None else f" Shorter than it should be: {rounds} rounds."
    seeds = max((len(figures) for _, figures in found), default=0)
    lines = [
        f"**{table.title}.** {seeds} seed{'s' * (seeds != 1)}; {table.source}.{short}",
        "",
        "| | ours | deviation | published |",
        "| --- | --- | --- | --- |",
    ]
    for row, figures in found:
        deviation = f"{statistics.stdev(figures):.4f}" if len(figures) > 1 else ""
        published = "" if row.published is None else f"{row.published:g}"
        lines.append(f"| {row.name} | {statistics.mean(figures):.4f} | {deviation} | {published} |")
    return "\n".join(lines) + "\n"
