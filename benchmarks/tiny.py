"""Rounds a second of a model so small that only the framework costs, ours against pfl-research.

    python benchmarks/tiny.py --rounds 300 --repeat 3

Logistic regression: 60 features, 10 classes, 100 users of 50 examples, 10 users a round, one epoch in batches of 10,
learning rate 0.1, gradients clipped to 5.  Two worker processes of one thread each; systems take turns.  The first
rounds are not counted.  Wants a machine at rest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import HERE, PEERS, machine, show, show_parts, simulate, take_turns
from peer_environments import add_option, peer_environment, peer_programs, peer_versions, run_peer
from tiny_data import make_users, write_users

USERS, EXAMPLES, COHORT, WORKERS = 100, 50, 10, 2
WARM_UP = 10  # rounds that are not counted


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.rounds <= WARM_UP + 1 or arguments.repeat < 1:
        parser.error(f"more than {WARM_UP + 1} rounds and one repetition are needed")
    return arguments


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    programs = peer_programs("pfl", asked.venvs)
    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", USERS, EXAMPLES)
        x, y = make_users(USERS, EXAMPLES)
        np.savez(folder / "users.npz", x=x.astype(np.float32), y=y)

        def ours() -> float:
            limits = ("--rounds", asked.rounds, "--shards", WORKERS, "--sample-num", COHORT)
            rows = simulate(HERE / "tiny_task.py", folder / "data", *limits, output=folder / "record")[WARM_UP:]
            times.extend(rows)
            return 1 / statistics.mean(row["seconds"] for row in rows)

        def pfl() -> float:
            seconds = folder / "seconds.json"
            torchrun = [programs / "torchrun", "--standalone", f"--nproc_per_node={WORKERS}"]
            command = [*torchrun, PEERS / "pfl_tiny.py", folder / "users.npz", asked.rounds, COHORT, seconds]
            return 1 / statistics.mean(run_peer(command, seconds, peer_environment())[WARM_UP - 1 :])

        measured = take_turns({"this project": ours, "pfl-research": pfl}, asked.repeat, "rounds a second")
    pairs = list(zip(*measured.values(), strict=True))
    rows = [[system, f"{statistics.median(rates):.1f}"] for system, rates in measured.items()]
    rows.append(["ours / pfl-research", f"{statistics.median(a / b for a, b in pairs):.2f}"])
    work = f"{asked.rounds} rounds of {COHORT} users with {EXAMPLES} examples; median of {asked.repeat} runs"
    versions = peer_versions("pfl", asked.venvs)
    title = f"Logistic regression, {WORKERS} workers of one thread"
    show(title, ["system", "rounds a second"], rows, work, machine(), versions)
    show_parts(times)


if __name__ == "__main__":
    main()
