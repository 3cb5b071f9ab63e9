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
import sys
import tempfile
from pathlib import Path

from common import ROOT, machine, show
from scale import EXCHANGES, PULLED, PUSHED, WARM_UP, measure_time, task
from tiny_data import write_users

sys.path.append(str(ROOT / "tests"))
from namespaces import Hosts


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
                    measure_time(
                        folder,
                        task(
                            folder, asked.millions, simulators, 2 * simulators, exchange, asked.rounds, hosts.mpirun()
                        ),
                    )
                    for exchange in EXCHANGES
                )
            finally:
                hosts.tear_down()
            one = 1e3 * asked.millions * (PULLED + PUSHED) * 8 / asked.megabits
            rows.append([f"{simulators}", f"{never:.0f}", f"{always:.0f}", f"{never / always:.2f}",
                         f"{one * simulators:.0f}", f"{one * (2 - 1 / simulators):.0f}"])  # fmt: skip
    columns = ["simulators", "each with the scheduler", "among themselves", "ratio", "links alone, each", "among"]
    work = f"{asked.millions:g} million parameters, links of {asked.megabits} Mbit/s; median round outside training, ms"
    show("Simulators on hosts of their own", columns, rows, work, machine())


if __name__ == "__main__":
    main()
