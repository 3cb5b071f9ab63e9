"""A round's time outside training: measured for a few sizes, fitted, and told for many simulators.

    python benchmarks/scale.py

Simulators of one shard stream their parameters, as on machines of their own.  Training takes next to no time; all
else is fitted by least squares to  a + b P S + c P + d P K / S + e K  with P million parameters, S simulators and
K users a round: what goes through the one scheduler, its step, what shards do with the users' deltas, and the users.
Here all processes share one machine and no network, so  b  is the cost of copying and adding; a network adds its
own time, which the last table takes from `--gigabits`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from common import HERE, machine, show, simulate
from tiny_data import write_users

WARM_UP = 2  # rounds that are not counted
PULLED, PUSHED = 4, 8  # bytes a parameter


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--millions", type=float, nargs="+", default=[0.1, 2.0, 8.0], help="parameters")
    parser.add_argument("--simulators", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--users", type=int, nargs="+", default=[6, 24], help="a round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--gigabits", type=float, default=10.0, help="of the scheduler's network, a second")
    arguments = parser.parse_args()
    if arguments.rounds <= WARM_UP:
        parser.error(f"more than {WARM_UP} rounds are needed")
    return arguments


def terms(millions: float, simulators: float, users: float) -> list[float]:
    """What the coefficients are multiplied with."""
    return [1.0, millions * simulators, millions, millions * users / simulators, users]


def main() -> None:
    """Measures, fits and prints."""
    asked = read_arguments()
    cases = list(product(asked.millions, asked.simulators, asked.users))
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", 100, 10)
        for number, (millions, simulators, users) in enumerate(cases):
            rows = simulate(
                HERE / "scale_task.py", folder / "data", "--elements", int(millions * 1e6), "--sample-num", users,
                "--rounds", asked.rounds, "--shards", 1, "--no-shared-memory", "--exchange", "never",
                "--checkpoint-every", 0,
                ranks=simulators + 1, output=folder / f"record{number}",
            )[WARM_UP:]  # fmt: skip
            measured.append(1e3 * statistics.median(row["seconds"] - row["train"] for row in rows))
    matrix = np.array([terms(*case) for case in cases])
    # Relative errors: a small model's milliseconds count as much as a large one's seconds.
    weights = 1 / np.array(measured)
    found = _least_squares(matrix * weights[:, None], np.ones(len(cases)))
    fitted = matrix @ found
    lines = [
        [f"{p:g}", f"{s}", f"{k}", f"{real:.1f}", f"{model:.1f}"]
        for (p, s, k), real, model in zip(cases, measured, fitted, strict=True)
    ]
    title = "A round outside training, ms"
    show(title, ["million parameters", "simulators", "users", "measured", "fitted"], lines, machine())
    names = ["a", "b: P S", "c: P", "d: P K / S", "e: K"]
    show("Coefficients, ms", ["term", "ms"], [[n, f"{v:.3f}"] for n, v in zip(names, found, strict=True)])
    rows_out = []
    for simulators in (1, 4, 16, 64):
        users = 10 * simulators
        own = float(np.array(terms(6.18, simulators, users)) @ found)
        network = 6.18e6 * (PULLED + PUSHED) * simulators * 8 / (asked.gigabits * 1e9) * 1e3
        rows_out.append([f"{simulators}", f"{users}", f"{own:.0f}", f"{network:.0f}"])
    show(
        "The language model (6.18 million), 10 users a simulator, told by the fit; ms a round",
        ["simulators", "users", "scheduler and shards", f"its network, {asked.gigabits:g} Gbit/s"], rows_out,
    )  # fmt: skip


def _least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Coefficients that are not negative: drops the most negative one until none is."""
    active = list(range(matrix.shape[1]))
    while True:
        solution = np.linalg.lstsq(matrix[:, active], right, rcond=None)[0]
        if solution.min() >= 0:
            break
        del active[int(solution.argmin())]
    full = np.zeros(matrix.shape[1])
    full[active] = solution
    return full


if __name__ == "__main__":
    main()
