"""Rounds a second of a model so small that only the framework costs, ours against pfl-research and FedJAX.

    python benchmarks/tiny.py --rounds 300 --repeat 3

Logistic regression: 60 features, 10 classes, 100 users of 50 examples, 10 users a round, one epoch in batches of 10,
learning rate 0.1, gradients clipped to 5.  Two worker processes of one thread each, but for FedJAX: one process with
as many threads as it likes.  Ours runs with the project's own classifier, and with a loss as a user would write it.
Systems take turns.  The first rounds are not counted.  Wants a machine at rest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import HERE, ONE_THREAD, PEERS, machine, paired_ratio, show, show_parts, simulate, take_turns
from peer_environments import add_option, peer_environment, peer_programs, peer_versions, run_peer
from tiny_data import make_users, write_users

USERS, EXAMPLES, COHORT, WORKERS = 100, 50, 10, 2
WARM_UP = 10  # rounds that are not counted
OURS, OWN_LOSS, PEER = "this project", "this project, a loss of one's own", ("pfl-research", "FedJAX")


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
    programs, jax_programs = peer_programs("pfl", asked.venvs), peer_programs("fedjax", asked.venvs)
    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", USERS, EXAMPLES)
        x, y = make_users(USERS, EXAMPLES)
        np.savez(folder / "users.npz", x=x.astype(np.float32), y=y)

        def ours(*flags: object) -> list[dict[str, float]]:
            limits = ("--rounds", asked.rounds, "--shards", WORKERS, "--sample-num", COHORT, *flags)
            return simulate(HERE / "tiny_task.py", folder / "data", *limits, output=folder / "record")[WARM_UP:]

        def classifier() -> float:
            rows = ours()
            times.extend(rows)
            return _rate([row["seconds"] for row in rows])

        def own_loss() -> float:
            return _rate([row["seconds"] for row in ours("--own-loss")])

        def pfl() -> float:
            seconds = folder / "seconds.json"
            torchrun = [programs / "torchrun", "--standalone", f"--nproc_per_node={WORKERS}"]
            command = [*torchrun, PEERS / "pfl_tiny.py", folder / "users.npz", asked.rounds, COHORT, seconds]
            return _rate(run_peer(command, seconds, peer_environment())[WARM_UP - 1 :])

        def fedjax() -> float:
            script, seconds = PEERS / "fedjax_tiny.py", folder / "seconds.json"
            command = [jax_programs / "python", script, folder / "users.npz", asked.rounds, COHORT, seconds]
            environment = {k: v for k, v in peer_environment().items() if k not in ONE_THREAD}
            return _rate(run_peer(command, seconds, environment)[WARM_UP - 1 :])

        systems = {OURS: classifier, OWN_LOSS: own_loss, "pfl-research": pfl, "FedJAX": fedjax}
        measured = take_turns(systems, asked.repeat, "rounds a second")
    rows = [
        [
            system,
            f"{statistics.median(rates):.1f}",
            *(paired_ratio(rates, measured[peer]) for peer in systems if peer in PEER),
        ]
        for system, rates in measured.items()
    ]
    work = f"{asked.rounds} rounds of {COHORT} users with {EXAMPLES} examples; median of {asked.repeat} runs"
    versions = [peer_versions(name, asked.venvs) for name in ("pfl", "fedjax")]
    title = f"Logistic regression, {WORKERS} workers of one thread"
    show(title, ["system", "rounds a second", *(f"x {peer}" for peer in PEER)], rows, work, machine(), *versions)
    show_parts(times)


def _rate(seconds: Sequence[float]) -> float:
    return 1 / statistics.mean(seconds)


if __name__ == "__main__":
    main()
