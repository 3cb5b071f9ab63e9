"""Seconds of a test of all users of the language model: side by side, and one by one.

    python benchmarks/testing.py lm_data

One round is trained, and all users are tested after it.  The two take turns.  Wants a machine at rest.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from common import HERE, machine, our_command, our_environment, run, show, take_turns

WAYS = {"side by side": (), "one by one": ("--one-by-one",)}


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("data", type=Path, help="data folder")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shards", type=int, default=2)
    return parser.parse_args()


def test(asked: argparse.Namespace, flags: tuple[str, ...]) -> tuple[float, dict[str, float]]:
    """One run; returns the seconds of its test, and the metrics."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "record"
        limits = ("--rounds", 1, "--shards", asked.shards, "--progress", "none", "--output", output)
        run(our_command(HERE / "testing_task.py", asked.data.resolve(), *limits, *flags), our_environment())
        with (output / "metrics.csv").open(encoding="utf-8") as file:
            (row,) = (row for row in csv.DictReader(file) if row["phase"] == "test")
    return float(row["seconds"]), {name: float(row[name]) for name in ("loss", "top1")}


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    metrics: dict[str, dict[str, float]] = {}

    def seconds(way: str) -> float:
        spent, metrics[way] = test(asked, WAYS[way])
        return spent

    found = take_turns({way: lambda way=way: seconds(way) for way in WAYS}, asked.repeat, "s")
    one, other = (found[way] for way in WAYS)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(one, other, strict=True))
    rows = [
        [way, f"{statistics.median(found[way]):.2f}", *(f"{value:.9f}" for value in metrics[way].values())]
        for way in WAYS
    ]
    title = f"Test of all users, {asked.shards} shards"
    show(title, ["", "s", "loss", "top1"], rows, f"side by side / one by one: {ratio:.2f}", machine())


if __name__ == "__main__":
    main()
