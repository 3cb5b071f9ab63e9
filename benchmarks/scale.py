"""A round's time outside training, by parameters, users and simulators; measured, fitted, told for many simulators.

    python benchmarks/scale.py

Simulators of one shard stream their parameters, as on machines of their own.  Training takes next to no time.  Where
each deals with the scheduler alone, all else is fitted by least squares to  a + b P S + c P + d P K / S + e K  with
P million parameters, S simulators and K users a round: what goes through the one scheduler, its step, what shards do
with the users' deltas, and the users.  All processes share one machine here, so that time has the work of the
simulators in it, which on machines of their own is done side by side.  The CPU time of the scheduler and of one
simulator is therefore measured too, also where simulators exchange among themselves, and the last table is made of
it: what copying takes at the scheduler and at a simulator, and what a network of `--gigabits` takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from common import HERE, machine, our_command, our_environment, round_times, rounds_done, run, show
from tiny_data import write_users
from watching import Watched

WARM_UP = 2  # rounds that are not counted
PAUSE = 0.2  # between two looks at a run
PULLED, PUSHED = 4, 8  # bytes a parameter
LANGUAGE_MODEL = 6.18  # million parameters
EXCHANGES = ("never", "always")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--millions", type=float, nargs="+", default=[0.1, 2.0, 8.0], help="parameters")
    parser.add_argument("--simulators", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--users", type=int, nargs="+", default=[6, 24], help="a round")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--gigabits", type=float, default=10.0, help="of each machine's network, a second")
    arguments = parser.parse_args()
    if arguments.rounds <= WARM_UP + 1:
        parser.error(f"more than {WARM_UP + 1} rounds are needed")
    return arguments


def task(
    folder: Path, millions: float, simulators: int, users: int, exchange: str, rounds: int,
    launcher: Sequence[str] | None = None,
) -> list[str]:  # fmt: skip
    """The command line of a run under mpirun or another launcher; its record goes to `folder`/record."""
    return our_command(
        HERE / "scale_task.py", folder / "data", "--elements", int(millions * 1e6), "--sample-num", users,
        "--rounds", rounds, "--shards", 1, "--no-shared-memory", "--exchange", exchange, "--checkpoint-every", 0,
        "--test-sampler", "none", "--progress", "none", "--output", folder / "record", ranks=simulators + 1,
        launcher=launcher,
    )  # fmt: skip


def measure_time(folder: Path, command: list[str]) -> float:
    """Milliseconds of the median round outside training."""
    run(command, our_environment())
    rows = round_times(folder / "record")[WARM_UP:]
    return 1e3 * statistics.median(row["seconds"] - row["train"] for row in rows)


def measure_cpu(folder: Path, command: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds of CPU a round, by part: of all processes that play it."""
    (folder / "record" / "metrics.csv").unlink(missing_ok=True)
    seen: list[tuple[int, dict[str, float]]] = []
    with Watched(command, our_environment()) as watched:
        while watched.running():
            done = rounds_done(folder / "record")
            if WARM_UP <= done < rounds:
                seen.append((done, watched.cpu()))
            time.sleep(PAUSE)
    (first, before), (last, after) = seen[0], seen[-1]
    return {part: 1e3 * (after[part] - before[part]) / max(1, last - first) for part in before if part in after}


def terms(millions: float, simulators: float, users: float) -> list[float]:
    """What the coefficients are multiplied with."""
    return [1.0, millions * simulators, millions, millions * users / simulators, users]


def main() -> None:
    """Measures, fits and prints."""
    asked = read_arguments()
    cases = list(product(asked.millions, asked.simulators, asked.users))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_users(folder / "data", 100, 10)
        walls = [measure_time(folder, task(folder, *case, "never", asked.rounds)) for case in cases]
        large = max(asked.millions)
        several = [simulators for simulators in asked.simulators if simulators > 1]
        cpu = {
            (exchange, simulators): measure_cpu(
                folder, task(folder, large, simulators, 2 * simulators, exchange, asked.rounds), asked.rounds
            )
            for exchange, simulators in product(EXCHANGES, several)
        }
    show_fit(cases, walls)
    if several:
        show_copying(cpu, large, max(several), asked.gigabits)


def show_fit(cases: Sequence[tuple[float, int, int]], walls: Sequence[float]) -> None:
    """The measured times, and the model that fits them."""
    matrix = np.array([terms(*case) for case in cases])
    # Relative errors: a small model's milliseconds count as much as a large one's seconds.
    weights = 1 / np.array(walls)
    found = _least_squares(matrix * weights[:, None], np.ones(len(cases)))
    lines = [
        [f"{p:g}", f"{s}", f"{k}", f"{real:.1f}", f"{model:.1f}"]
        for (p, s, k), real, model in zip(cases, walls, matrix @ found, strict=True)
    ]
    title = "A round outside training, each with the scheduler, ms"
    show(title, ["million parameters", "simulators", "users", "measured", "fitted"], lines, machine())
    names = ["a", "b: P S", "c: P", "d: P K / S", "e: K"]
    show("Coefficients, ms", ["term", "ms"], [[n, f"{v:.3f}"] for n, v in zip(names, found, strict=True)])


def show_copying(cpu: dict[tuple[str, int], dict[str, float]], millions: float, most: int, gigabits: float) -> None:
    """The CPU time of copying and adding, and what it and the network tell for many simulators."""
    lines = [
        [f"{simulators}", exchange, f"{used['scheduler'] / millions:.1f}",
         f"{used['simulator'] / simulators / millions:.1f}"]
        for (exchange, simulators), used in cpu.items()
    ]  # fmt: skip
    title = f"CPU a round and million parameters, ms ({millions:g} million)"
    show(title, ["simulators", "--exchange", "the scheduler", "a simulator"], lines)
    alone, among = cpu["never", most], cpu["always", most]
    rows = []
    for simulators in (1, 4, 16, 64):
        # What a simulator sends and takes of the others grows with this.
        share = (2 - 1 / simulators) / (2 - 1 / most)
        network = LANGUAGE_MODEL * 1e6 * (PULLED + PUSHED) * 8 / (gigabits * 1e9) * 1e3
        per = LANGUAGE_MODEL / millions
        direct = per * (alone["scheduler"] / most * simulators + alone["simulator"] / most)
        exchanged = per * (among["scheduler"] + among["simulator"] / most * share)
        rows.append([f"{simulators}", f"{direct:.0f}", f"{network * simulators:.0f}", f"{exchanged:.0f}",
                     f"{network * (2 - 1 / simulators):.0f}"])  # fmt: skip
    show(
        f"The language model ({LANGUAGE_MODEL:g} million) on machines of their own, ms a round outside training",
        ["simulators", "each with the scheduler: copying", f"{gigabits:g} Gbit/s", "among themselves: copying",
         f"{gigabits:g} Gbit/s"], rows,
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
