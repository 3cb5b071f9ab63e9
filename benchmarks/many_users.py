"""Memory of each rank as a function of the number of users, each with a small example and a private parameter.

    python benchmarks/many_users.py --users 200000

Runs the tiny task with a private bias on a hundredth, a tenth and all of so many made-up users.  `--trained` says
which share of them trains, 100 a round, and so stores private parameters.  Memory is the proportional set size
without pages of files: those are programs and the store, which the system takes back when it needs room, and stand in
a column of their own.  TMPDIR must be on a disk, with some 2 kB a user; where it is kept in memory, so is the store.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import HERE, machine, our_command, our_environment, show
from tiny_data import uid_of, write_users
from watching import MB, Memory, Watched

PARTS = ("scheduler", "simulator", "shards")
COHORT = 100
PAUSE = 0.3  # seconds between looks


@dataclass
class Peak:
    """The most MB ever seen: of each part without pages of files, and of those pages."""

    parts: dict[str, float]
    files: float = 0.0

    def see(self, memory: dict[str, Memory]) -> None:
        """Takes one look."""
        for part in PARTS:
            self.parts[part] = max(self.parts.get(part, 0.0), memory.get(part, Memory()).own)
        self.files = max(self.files, sum(each.files for each in memory.values()))

    def values(self) -> list[float]:
        """All of it, in the order of the table."""
        return [*(self.parts[part] for part in PARTS), self.files]


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--trained", type=float, default=0.1, help="share of the users that train")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.users < 1000 or not 0 < arguments.trained <= 1:
        parser.error("--users must be 1000 or more, --trained above 0 and not above 1")
    return arguments


def plan(users: int, share: float) -> list[list[str]]:
    """Cohorts in which so large a share of the users trains once."""
    chosen = [uid_of(int(i / share)) for i in range(max(1, int(users * share)))]
    return [chosen[i : i + COHORT] for i in range(0, len(chosen), COHORT)]


def measure(users: int, share: float, shards: int) -> tuple[Peak, int, float]:
    """Runs the task; returns peaks, users trained and MB of data files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", users, examples=1)
        megabytes = sum(path.stat().st_size for path in (folder / "data").rglob("*.json")) / MB
        cohorts = plan(users, share)
        (folder / "plan.json").write_text(json.dumps(cohorts))
        chosen = ("--sampler", "fixed", "--plan", folder / "plan.json", "--rounds", len(cohorts))
        rest = ("--shards", shards, "--test-sampler", "none", "--private", "out.bias", "--output", folder / "record")
        command = our_command(HERE / "tiny_task.py", folder / "data", *chosen, *rest)
        peak = Peak({})
        with Watched(command, our_environment()) as run:
            while run.running():
                peak.see(run.memory())
                time.sleep(PAUSE)
    return peak, sum(map(len, cohorts)), megabytes


def slope(fewer: Sequence[float], more: Sequence[float], users: int) -> list[str]:
    """Bytes that each further user costs, from the second row to the third."""
    return [f"{(b - a) * MB / users:.0f}" for a, b in zip(fewer, more, strict=True)]


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    counts = [asked.users // 100, asked.users // 10, asked.users]
    rows, peaks = [], []
    for users in counts:
        peak, trained, megabytes = measure(users, asked.trained, asked.shards)
        peaks.append(peak.values())
        rows.append([f"{users:,}", f"{trained:,}", f"{megabytes:.1f}", *(f"{mb:.1f}" for mb in peak.values())])
    rows.append(["bytes for each user more", "", "", *slope(peaks[1], peaks[2], counts[2] - counts[1])])
    columns = ["users", "trained", "MB of data", *PARTS, "pages of files"]
    show(f"Peak memory in MB, {asked.shards} shards together", columns, rows, machine())


if __name__ == "__main__":
    main()
