"""Milliseconds a training step of the CNN that most papers use: ours, Paddle alone, PyTorch.

    python benchmarks/cnn.py --repeat 5

28 x 28 images; convolutions 5 x 5 x 32 and 5 x 5 x 64, each with ReLU and pooling; 512 hidden units, 62 classes;
SGD in batches of 10, gradients clipped to 5.  One thread each, CPU seconds; systems take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from common import HERE, ONE_THREAD, PEERS, ROOT, machine, paired_ratio, show, take_turns
from peer_environments import add_option, peer_environment, peer_programs, peer_versions, run_peer

from simulator.shards.environment import shard_environment


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=30, help="of 20 steps each, in one run of a system")
    parser.add_argument("--repeat", type=int, default=5)
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.passes < 1 or arguments.repeat < 1:
        parser.error("at least one pass and one repetition are needed")
    return arguments


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    torch = peer_programs("pfl", asked.venvs) / "python"
    tuned = shard_environment({**os.environ, **ONE_THREAD}, tune=True)
    ours = {**tuned, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    bare = {**tuned, "PYTHONPATH": str(PEERS)}
    with tempfile.TemporaryDirectory() as name:
        seconds = Path(name) / "seconds.json"

        def step(python: object, script: Path, environment: dict[str, str]) -> float:
            command = [python, script, asked.passes, seconds]
            return 1e3 * statistics.median(run_peer(command, seconds, environment))

        systems = {
            "this project": lambda: step(sys.executable, HERE / "cnn_step.py", ours),
            "Paddle in a shard's environment": lambda: step(sys.executable, PEERS / "cnn_paddle.py", bare),
            "Paddle as installed": lambda: step(sys.executable, PEERS / "cnn_paddle.py", peer_environment()),
            "PyTorch as installed": lambda: step(torch, PEERS / "cnn_torch.py", peer_environment()),
            "PyTorch in a shard's environment": lambda: step(torch, PEERS / "cnn_torch.py", bare),
        }
        measured = take_turns(systems, asked.repeat, "ms a step")
    mine = measured["this project"]
    rows = []
    for system, times in measured.items():
        rows.append([system, f"{statistics.median(times):.2f}", paired_ratio(mine, times)])
    work = f"{asked.passes} passes of 20 steps; median of {asked.repeat} runs"
    columns = ["system", "ms a step", "ours / system"]
    show("A step of the CNN, one thread", columns, rows, work, machine(), peer_versions("pfl", asked.venvs))


if __name__ == "__main__":
    main()
