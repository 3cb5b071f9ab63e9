"""Seconds from mpirun to the first round under way, and the CPU that waiting ranks use while shards train.

    python benchmarks/start.py lm_data

The record tells when a part of the start is over: all ranks have joined when config.yaml is written, the model is
built when params/initial.npz is, and the first round began its own seconds before its row came to metrics.csv.  CPU
is counted from the end of the first round to the end of the last.  Wants a machine at rest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from common import ROOT, machine, our_command, our_environment, round_times, rounds_done, show
from watching import Watched

PAUSE = 0.02  # seconds between looks
STEPS = ("all ranks have joined", "model built", "first round under way")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("data", type=Path, help="data folder")
    parser.add_argument("--rounds", type=int, default=10, help="two or more")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2, help="the scheduler and the simulators")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.ranks < 2:
        parser.error("two rounds and two ranks are needed")
    return arguments


def wait_for_rounds(run: Watched, output: Path, rounds: int) -> float:
    """Waits until so many rounds are done; returns the time (as time.time)."""
    while rounds_done(output) < rounds:
        if not run.running():
            raise SystemExit(f"the run ended before {rounds} rounds were done")
        time.sleep(PAUSE)
    return time.time()


def measure(asked: argparse.Namespace) -> tuple[list[float], dict[str, float]]:
    """One run; returns the seconds of `STEPS` since mpirun, and the share of a core that each part used."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "record"
        limits = ("--rounds", asked.rounds, "--shards", asked.shards, "--test-sampler", "one-percent")
        command = our_command(
            ROOT / "application.py", asked.data.resolve(), *limits, "--output", output, ranks=asked.ranks
        )
        began = time.time()
        with Watched(command, our_environment()) as run:
            first = wait_for_rounds(run, output, 1)
            before = run.cpu()
            last = wait_for_rounds(run, output, asked.rounds)
            after = run.cpu()
            steps = [(output / part).stat().st_mtime for part in ("config.yaml", "params/initial.npz")]
            steps.append(first - round_times(output)[0]["seconds"])
            while run.running():
                time.sleep(PAUSE)
    shares = {part: (after[part] - before[part]) / (last - first) for part in before if part in after}
    return [when - began for when in steps], shares


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    runs = [measure(asked) for _ in range(asked.repeat)]
    rows = [[step, f"{statistics.median(steps[i] for steps, _ in runs):.2f}"] for i, step in enumerate(STEPS)]
    show("Start", ["", "s since mpirun"], rows, f"median of {asked.repeat} runs", machine())
    rows = [
        [part, f"{statistics.median(shares.get(part, 0.0) for _, shares in runs):.1%}"]
        for part in ("scheduler", "simulator", "launcher", "shards")
    ]
    simulators = f"{asked.ranks - 1} simulator{'s' if asked.ranks > 2 else ''}"
    note = f"{simulators} of {asked.shards} shards; 100% is one core busy all the time"
    show("CPU while shards train, all processes of a kind", ["", "of a core"], rows, note)


if __name__ == "__main__":
    main()
