"""Memory of a whole run of the language model, all processes, and whether it grows with the rounds.

    python benchmarks/memory.py lm_data --rounds 200 --early 20
    python benchmarks/memory.py lm_data --rounds 20 --pfl

Memory is the proportional set size: a page that processes share is counted once, in parts.  Growth compares the
highest of some rounds from `--early` on with the highest of the last rounds.  `--pfl` measures pfl-research on the
same users and rounds too; its launcher imports PyTorch, so it stands in a row of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import PEERS, ROOT, machine, our_command, our_environment, rounds_done, show
from language_model import prepare
from peer_environments import add_option, peer_environment, peer_programs
from watching import Memory, Watched

PAUSE = 0.3  # seconds between looks


@dataclass(frozen=True)
class Look:
    """Memory at a moment, by part, and the rounds done by then."""

    rounds: int
    parts: dict[str, Memory]

    def of(self, part: str) -> float:
        """MB of a part; of all if it is "all"."""
        if part == "all":
            return sum(memory.total for memory in self.parts.values())
        return self.parts.get(part, Memory()).total


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("data", type=Path, help="data folder")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--early", type=int, default=20, help="round from which growth is counted")
    parser.add_argument("--shards", type=int, default=2, help="worker processes of each system")
    parser.add_argument("--pfl", action="store_true", help="measure pfl-research too")
    add_option(parser)
    arguments = parser.parse_args()
    if not 0 < arguments.early < arguments.rounds:
        parser.error("--early must be a round before the last")
    return arguments


def look_on(run: Watched, output: Path | None) -> list[Look]:
    """Looks at a run until it ends."""
    looks = []
    while run.running():
        done = rounds_done(output) if output is not None else 0
        looks.append(Look(done, run.memory()))
        time.sleep(PAUSE)
    return looks


def highest(looks: Sequence[Look], part: str, first: int, last: int) -> float | None:
    """The most MB of a part while so many rounds were done; None if nobody looked then."""
    return max((look.of(part) for look in looks if first <= look.rounds <= last), default=None)


def show_ours(looks: Sequence[Look], early: int, rounds: int) -> None:
    """Prints peaks and growth."""
    width = max(1, min(early, rounds - early) // 2)
    rows = []
    for part in ("scheduler", "simulator", "shards", "launcher", "all"):
        before = highest(looks, part, early, early + width)
        # Once the last round is done, ranks write the record and leave.
        after = highest(looks, part, rounds - 1 - width, rounds - 1)
        growth = f"{after / before - 1:+.1%}" if before and after else "-"
        peak = highest(looks, part, 0, rounds)
        rows.append([part, *("-" if mb is None else f"{mb:.0f}" for mb in (peak, before, after)), growth])
    columns = ["this project", "MB, peak", f"from round {early}", f"from round {rounds - 1 - width}", "growth"]
    show("Memory (proportional set size)", columns, rows, machine())


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(asked.data, folder, asked.rounds)
        plan = ("--sampler", "fixed", "--plan", folder / "plan.json", "--rounds", asked.rounds)
        rest = ("--shards", asked.shards, "--test-sampler", "none", "--output", folder / "record")
        command = our_command(ROOT / "application.py", folder / "data", *plan, *rest)
        with Watched(command, our_environment()) as run:
            looks = look_on(run, folder / "record")
        show_ours(looks, asked.early, asked.rounds)
        if not asked.pfl:
            return
        torchrun = [peer_programs("pfl", asked.venvs) / "torchrun", "--standalone"]
        script = [PEERS / "pfl_language_model.py", folder / "workload.npz", folder / "seconds.json"]
        with Watched([*torchrun, f"--nproc_per_node={asked.shards}", *script], peer_environment()) as run:
            theirs = look_on(run, None)
    rows = [[part, f"{max(look.of(part) for look in theirs):.0f}"] for part in ("workers", "launcher", "all")]
    rows.append(["ours / all", f"{max(look.of('all') for look in looks) / max(look.of('all') for look in theirs):.2f}"])
    ratio = max(look.of("all") for look in looks) / max(look.of("workers") for look in theirs)
    rows.append(["ours / workers", f"{ratio:.2f}"])
    show("Memory of pfl-research", ["pfl-research", "MB, peak"], rows)


if __name__ == "__main__":
    main()
