"""Memory and time as a function of the number of users, each with a small example and private parameters.

    python benchmarks/many_users.py --users 200000

Runs the tiny task with a private bias on a hundredth, a tenth and all of so many made-up users.  `--trained` says
which share of them trains, `--cohort` a round, and so stores private parameters; a checkpoint is made ten times, with
the private parameters that have changed since the last.  Memory is the proportional set size
without pages of files: those are programs and the store, which the system takes back when it needs room, and stand in
a column of their own.  TMPDIR must be on a disk, with some 2 kB a user; where it is kept in memory, so is the store.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import HERE, machine, our_command, our_environment, round_times, rounds_done, show
from tiny_data import uid_of, write_users
from watching import MB, Memory, Watched

PARTS = ("scheduler", "simulator", "shards")
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
    parser.add_argument("--cohort", type=int, default=100, help="users a round")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.users < 1000 or not 0 < arguments.trained <= 1:
        parser.error("--users must be 1000 or more, --trained above 0 and not above 1")
    return arguments


def plan(users: int, share: float, cohort: int) -> list[list[str]]:
    """Cohorts in which so large a share of the users trains once."""
    chosen = [uid_of(int(i / share)) for i in range(max(1, int(users * share)))]
    return [chosen[i : i + cohort] for i in range(0, len(chosen), cohort)]


@dataclass
class Measured:
    """What a run has shown.

    Attributes:
        peak: of memory.
        trained: users.
        loading: seconds from the start to the first round.
        round: milliseconds of the median round of the second half.
        checkpoint: MB of the private parameters in the last one.
    """

    peak: Peak
    trained: int
    loading: float
    round: float
    checkpoint: float


def measure(users: int, share: float, cohort: int, shards: int) -> Measured:
    """Runs the task."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", users, examples=1)
        cohorts = plan(users, share, cohort)
        (folder / "plan.json").write_text(json.dumps(cohorts))
        chosen = ("--sampler", "fixed", "--plan", folder / "plan.json", "--rounds", len(cohorts))
        rest = ("--shards", shards, "--test-sampler", "none", "--private", "layers.0.bias", "--progress", "none")
        saved = ("--checkpoint-every", max(1, len(cohorts) // 10), "--output", folder / "record")
        command = our_command(HERE / "tiny_task.py", folder / "data", *chosen, *rest, *saved)
        began, loading = time.perf_counter(), 0.0
        peak = Peak({})
        with Watched(command, our_environment()) as run:
            while run.running():
                peak.see(run.memory())
                time.sleep(PAUSE)
                if not loading and rounds_done(folder / "record"):
                    loading = time.perf_counter() - began
        times = [row["seconds"] for row in round_times(folder / "record")]
        parts = sorted((folder / "record" / "checkpoints").glob("*.private"))
        written = parts[-1].stat().st_size / MB if parts else 0.0
    half = times[len(times) // 2 :]
    return Measured(peak, sum(map(len, cohorts)), loading, 1e3 * statistics.median(half), written)


def slope(fewer: Sequence[float], more: Sequence[float], users: int) -> list[str]:
    """Bytes that each further user costs, from the second row to the third."""
    return [f"{(b - a) * MB / users:.0f}" for a, b in zip(fewer, more, strict=True)]


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    counts = [asked.users // 100, asked.users // 10, asked.users]
    rows, peaks = [], []
    for users in counts:
        run = measure(users, asked.trained, asked.cohort, asked.shards)
        peaks.append(run.peak.values())
        first = [f"{users:,}", f"{run.trained:,}", *(f"{mb:.1f}" for mb in run.peak.values())]
        rows.append([*first, f"{run.loading:.1f}", f"{run.round:.1f}", f"{run.checkpoint:.2f}"])
    rows.append(["bytes for each user more", "", *slope(peaks[1], peaks[2], counts[2] - counts[1]), "", "", ""])
    columns = ["users", "trained", *PARTS, "files", "loading, s", "round, ms", "checkpoint"]
    title = f"Peak memory in MB, {asked.shards} shards together; rounds of {asked.cohort:,} users; MB of a checkpoint"
    show(title, columns, rows, machine())


if __name__ == "__main__":
    main()
