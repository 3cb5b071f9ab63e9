"""Runs a table of experiments and writes it with the published figures beside ours.

python experiments/run.py                                                what tables there are, and what they need
python experiments/run.py fedprox_synthetic --seeds 3                    a table
python experiments/run.py flute_mnist --source mnist=/data/mnist         one that needs a set from elsewhere

A table is a file of experiments/tables/.  Each run has a folder under --out; runs that are done are not made again,
and one that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from table import HERE, Figures, Row, TableError, load, markdown
from table_runs import Runs


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="of experiments/tables")
    parser.add_argument("--seeds", type=int, default=3, help="runs a row, with seeds from 0 (%(default)s)")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=FOLDER", help="where a set lies")
    parser.add_argument("--only", default="", help="rows whose names hold this")
    parser.add_argument("--rounds", type=int, help="another number of rounds, which the table then says")
    parser.add_argument("--shards", type=int, help="worker processes of each run; all usable cores if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="where all goes (%(default)s)")
    return parser.parse_args(argv)


def main() -> int:
    """Runs the command line; returns the exit status."""
    if len(sys.argv) == 1:
        for path in sorted((HERE / "tables").glob("*.yaml")):
            table = load(path.stem)
            needs = "".join(f"\n    --source {name}=FOLDER: {what}" for name, what in table.sources.items())
            print(f"{table.name}: {table.title}{needs}")
        return 0
    given = parse(sys.argv[1:])
    try:
        table = load(given.table)
        sources = dict(each.split("=", 1) for each in given.source if "=" in each)
        runs = Runs(table, given.out / table.name, sources, rounds=given.rounds, shards=given.shards)
        found: list[tuple[Row, Figures]] = []
        for row in table.rows:
            if given.only.lower() in row.name.lower():
                figures = [runs.figure(row, seed) for seed in range(given.seeds)]
                found.append((row, figures))
                print(f"{row.name}: {', '.join(f'{figure:.4f}' for figure in figures)}", flush=True)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = markdown(table, found, given.rounds)
    (given.out / table.name / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
