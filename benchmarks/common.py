"""What the benchmarks share: running programs, reading records, printing tables."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from protos.errors import BadInput
from simulator.days import list_days

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = HERE / "peers"
PARTS = ("train", "pull", "push", "wait")
# In every system, so that a worker is one thread whatever the library's default.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# Names a file to which every table is added, for a page.
PAGE_VARIABLE = "BENCHMARKS_PAGE"


# -- running -------------------------------------------------------------------------


def our_environment() -> dict[str, str]:
    """Variables for a run of the simulator from this checkout, installed or not."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path)}


def our_command(script: Path, *arguments: object, ranks: int = 2, launcher: Sequence[str] | None = None) -> list[str]:
    """The command line of a simulator run under mpirun, or a launcher that knows its ranks."""
    start = launcher or ["mpirun", "-np", str(ranks)]
    return [*start, sys.executable, str(script), *map(str, arguments)]


def run(command: Sequence[object], environment: Mapping[str, str]) -> None:
    """Runs a program to its end.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, env=dict(environment), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise SystemExit(failure(words, (done.stdout + done.stderr).decode(errors="replace")))


def failure(command: Sequence[str], said: str) -> str:
    """What to say of a program that failed."""
    return f"{said[-4000:]}\nfailed: {' '.join(command)}"


def simulate(script: Path, *arguments: object, output: Path, ranks: int = 2) -> list[dict[str, float]]:
    """Runs the simulator without tests and progress; returns the times of its rounds."""
    quiet = ("--test-sampler", "none", "--progress", "none", "--output", output)
    run(our_command(script, *arguments, *quiet, ranks=ranks), our_environment())
    return round_times(output)


def take_turns(systems: Mapping[str, Callable[[], float]], repeat: int, unit: str) -> dict[str, list[float]]:
    """Measures every system `repeat` times, one after another, so that a drift of the machine meets all alike."""
    measured: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeat):
        for name, measure in systems.items():
            measured[name].append(measure())
            sys.stderr.write(f"{name}: {measured[name][-1]:.3f} {unit}\n")
    return measured


def paired_ratio(ours: Sequence[float], others: Sequence[float]) -> str:
    """The median of ours / others over the repetitions, each with its own pair."""
    return f"{statistics.median(a / b for a, b in zip(ours, others, strict=True)):.2f}"


# -- data and records -------------------------------------------------------------------------


def first_day(data: Path) -> str:
    """The name of a data folder's first day."""
    try:
        return list_days(data)[0]
    except BadInput as error:
        raise SystemExit(f"error: {error}") from error


def round_times(output: Path) -> list[dict[str, float]]:
    """Seconds, and where they went, of each training round in a record; [] if there is none yet."""
    path = output / "metrics.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "train"]
    # The last row may be half written.
    return [{name: float(row[name]) for name in ("seconds", *PARTS)} for row in rows if row["wait"]]


def rounds_done(output: Path) -> int:
    """Training rounds that a record holds so far."""
    try:
        return (output / "metrics.csv").read_text(encoding="utf-8").count(",train,")
    except OSError:
        return 0


def show_parts(rows: Sequence[Mapping[str, float]]) -> None:
    """Prints where the time of our rounds went."""
    whole = statistics.mean(row["seconds"] for row in rows)
    means = {part: statistics.mean(row[part] for row in rows) for part in PARTS}
    lines = [[part, f"{1e3 * mean:.2f}", f"{mean / whole:.1%}"] for part, mean in means.items()]
    lines.append(["all but train", f"{1e3 * (whole - means['train']):.2f}", f"{1 - means['train'] / whole:.1%}"])
    show("Where our round's time goes, mean over shards", ["part", "ms a round", "of the round"], lines)


# -- tables --------------------------------------------------------------------------


def machine() -> str:
    """The machine and the versions, as they belong under every table."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(f"{name} {_version(name)}" for name in ("paddlepaddle", "numpy", "mpi4py", "lmdb"))
    return (
        f"{_cpu_name()}, {cores} core{'s' if cores > 1 else ''}, {ram:.1f} GiB RAM, "
        f"{platform.system()} {platform.release()}\nPython {platform.python_version()}, {packages}"
    )


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> None:
    """Prints a table; the first column to the left, numbers to the right.  See `PAGE_VARIABLE`."""
    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(title, style="bold")
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print()
    page = os.environ.get(PAGE_VARIABLE)
    if page:
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(_markdown(title, columns, rows, notes))


def _markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [f"**{title}**", "", f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"{line}  " for note in notes for line in note.splitlines()), "", ""])


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"
