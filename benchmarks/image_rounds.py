"""Whole rounds of a convolutional net on images of 28 x 28, ours against pfl-research and PFLlib.

    python benchmarks/image_rounds.py --rounds 6 --repeat 2 --pfllib PFLLIB

Convolutions of 5 x 5 with 32 and 64 channels, each with a pooling of 2, 512 hidden, 10 classes: the net of PFLlib and
of most papers.  60 users of 100 made-up images, 10 a round, one epoch in batches of 10, learning rate 0.05.  Two
worker processes of one thread; PFLlib trains one user after another in one process with all threads it takes, and is
measured where a folder with its sources is given.  Systems take turns; the first round is not counted.  Wants a
machine at rest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import HERE, ONE_THREAD, PEERS, machine, paired_ratio, show, show_parts, simulate, take_turns
from image_task import CLASSES, SIDE
from peer_environments import add_option, peer_environment, peer_programs, peer_versions, run_peer

USERS, EXAMPLES, COHORT, WORKERS = 60, 100, 10, 2
OURS = "this project"


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--pfllib", type=Path, help="folder with PFLlib's sources, to measure it too")
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.repeat < 1:
        parser.error("at least two rounds (the first is not counted) and one repetition are needed")
    if arguments.pfllib is not None and not (arguments.pfllib / "system" / "flcore").is_dir():
        parser.error(f"--pfllib {arguments.pfllib}: there is no system/flcore in it")
    return arguments


def write_users(folder: Path) -> Path:
    """Draws the users, as each system reads them; returns the file."""
    rng = np.random.default_rng(0)
    x = rng.random((USERS, EXAMPLES, 1, SIDE, SIDE), np.float32)
    day = folder / "data" / "20200101"
    day.mkdir(parents=True)
    np.savez(day / "train.npz", x=x, y=rng.integers(0, CLASSES, (USERS, EXAMPLES)))
    return day / "train.npz"


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        users, seconds = write_users(folder), folder / "seconds.json"

        def ours() -> float:
            limits = ("--rounds", asked.rounds, "--shards", WORKERS, "--sample-num", COHORT)
            rows = simulate(HERE / "image_task.py", folder / "data", *limits, output=folder / "record")[1:]
            times.extend(rows)
            return statistics.mean(row["seconds"] for row in rows)

        def pfl() -> float:
            torchrun = [peer_programs("pfl", asked.venvs) / "torchrun", "--standalone", f"--nproc_per_node={WORKERS}"]
            command = [*torchrun, PEERS / "pfl_image.py", users, asked.rounds, COHORT, seconds]
            return statistics.mean(run_peer(command, seconds, peer_environment()))

        def pfllib() -> float:
            python = peer_programs("pfllib", asked.venvs) / "python"
            command = [python, PEERS / "pfllib_image.py", users, asked.rounds, COHORT, seconds, asked.pfllib.absolute()]
            environment = {k: v for k, v in peer_environment().items() if k not in ONE_THREAD}
            return statistics.mean(run_peer(command, seconds, environment))

        systems = {OURS: ours, "pfl-research": pfl}
        if asked.pfllib is not None:
            systems["PFLlib"] = pfllib
        measured = take_turns(systems, asked.repeat, "s a round")
    rows = [
        [system, f"{statistics.median(each):.2f}", paired_ratio(measured[OURS], each)]
        for system, each in measured.items()
    ]
    work = f"{asked.rounds} rounds of {COHORT} users with {EXAMPLES} images; median of {asked.repeat} runs"
    versions = [peer_versions("pfl", asked.venvs)]
    show("A convolutional net", ["system", "s a round", "ours / system"], rows, work, machine(), *versions)
    show_parts(times)


if __name__ == "__main__":
    main()
