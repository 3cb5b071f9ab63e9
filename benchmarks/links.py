"""Rounds of simulators on hosts of their own with slow links: each with the scheduler, or among themselves.

    python benchmarks/links.py

The hosts are network namespaces of this machine (Linux, as root; the tests' own), each with a link of `--megabits` a
second each way, so the network is what limits, as it does a large model on a fast one: 1 million parameters at
200 Mbit/s take as long as 50 million at 10 Gbit/s.  Simulators have one shard, training takes next to no time.
The last columns tell what the links alone must take: 12 S bytes a parameter with the scheduler for all S simulators,
12 (2 - 1 / S) when they exchange.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from common import HERE, machine, our_command, our_environment, round_times, run, show
from tiny_data import write_users

sys.path.append(str(HERE.parent / "tests"))
from namespaces import Hosts

WARM_UP = 2  # rounds that are not counted
BYTES = 12  # a parameter and simulator: 4 pulled, 8 pushed


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--simulators", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--millions", type=float, default=1.0, help="parameters")
    parser.add_argument("--megabits", type=int, default=200, help="of each link, a second")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.rounds <= WARM_UP or min(arguments.simulators) < 2:
        parser.error(f"more than {WARM_UP} rounds and two simulators are needed")
    return arguments


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", 100, 10)
        for simulators in asked.simulators:
            hosts = Hosts(folder, simulators + 1)
            try:
                hosts.set_up()
                hosts.limit(asked.megabits)
                never, always = (
                    measure(hosts, folder, exchange, simulators, asked) for exchange in ("never", "always")
                )
            finally:
                hosts.tear_down()
            one = 1e6 * asked.millions * BYTES * 8 / (1e6 * asked.megabits)
            limits = [one * simulators, one * (2 - 1 / simulators)]
            rows.append([f"{simulators}", *(f"{1e3 * s:.0f}" for s in (never, always)), f"{never / always:.2f}",
                         *(f"{1e3 * s:.0f}" for s in limits)])  # fmt: skip
    columns = ["simulators", "each with the scheduler", "among themselves", "ratio", "links alone, each", "among"]
    work = f"{asked.millions:g} million parameters, links of {asked.megabits} Mbit/s; median round outside training, ms"
    show("Simulators on hosts of their own", columns, rows, work, machine())


def measure(hosts: Hosts, folder: Path, exchange: str, simulators: int, asked: argparse.Namespace) -> float:
    """Seconds of the median round outside training."""
    output = folder / f"{simulators}-{exchange}"
    job = our_command(
        HERE / "scale_task.py", folder / "data", "--elements", int(asked.millions * 1e6), "--rounds", asked.rounds,
        "--sample-num", 2 * simulators, "--shards", 1, "--no-shared-memory", "--exchange", exchange, "--output", output,
        "--checkpoint-every", 0, "--test-sampler", "none", "--progress", "none", launcher=hosts.mpirun(),
    )  # fmt: skip
    run(job, our_environment())
    return statistics.median(row["seconds"] - row["train"] for row in round_times(output)[WARM_UP:])


if __name__ == "__main__":
    main()
