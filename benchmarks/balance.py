"""How long shards stand idle for the slowest one, counted in examples and not in seconds.

    python benchmarks/balance.py --sigma 1.5 --users 40 --shards 4 --rounds 200

Users' sizes are log-normal.  Simulators get their users from `scheduler.state.placement`, longest first; within a
simulator every shard takes the next user as soon as it is done, as the shared queue of the simulator has it.  A user
trains in one shard, so a round cannot be shorter than its longest user: the idleness that this alone forces is shown
too.  Nothing is timed, so the machine does not matter.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
from collections.abc import Sequence

import numpy as np
from common import machine, show

from scheduler.state.placement import place

MEDIAN_SIZE = 50  # examples


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--sigma", type=float, default=1.5, help="of the logarithm of the sizes")
    parser.add_argument("--users", type=int, default=40, help="a round")
    parser.add_argument("--shards", type=int, default=4, help="of all simulators together")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def draw(users: int, sigma: float, rng: np.random.Generator) -> list[int]:
    """Sizes of one cohort, in examples."""
    return [int(size) + 1 for size in rng.lognormal(np.log(MEDIAN_SIZE), sigma, users)]


def finish(sizes: Sequence[int], shards: int) -> list[int]:
    """When each shard of a simulator has done its last user; users are taken in the order given."""
    ends = [0] * shards
    for size in sizes:
        heapq.heapreplace(ends, ends[0] + size)
    return ends


def idle(ends: Sequence[int]) -> float:
    """The share of all shards' time that they stand idle until the last is done."""
    return 1 - sum(ends) / (len(ends) * max(ends))


def by_size(sizes: Sequence[int], lanes: Sequence[int]) -> list[int]:
    """Ends of all shards, with users placed by size."""
    placed = place(sizes, lanes)
    return [end for mine, n in zip(placed, lanes, strict=True) for end in finish([sizes[i] for i in mine], n)]


def in_turn(sizes: Sequence[int], shards: int) -> list[int]:
    """Ends of all shards if users are dealt out like cards, in the cohort's order."""
    return [sum(sizes[shard::shards]) for shard in range(shards)]


def forced(sizes: Sequence[int], shards: int) -> float:
    """The idle share of the best schedule there could be: as long as its longest user, or as the mean load."""
    mean = sum(sizes) / shards
    return 1 - mean / max(mean, *sizes)


def main() -> None:
    """Counts and prints."""
    asked = read_arguments()
    rng = np.random.default_rng(asked.seed)
    cohorts = [draw(asked.users, asked.sigma, rng) for _ in range(asked.rounds)]
    floor = [forced(sizes, asked.shards) for sizes in cohorts]
    ways = {
        f"{n} simulator{'s' if n > 1 else ''} of {asked.shards // n}": [
            idle(by_size(sizes, [asked.shards // n] * n)) for sizes in cohorts
        ]
        for n in (1, 2, 4)
        if asked.shards % n == 0
    }
    ways["dealt out in turn, for comparison"] = [idle(in_turn(sizes, asked.shards)) for sizes in cohorts]
    rows = []
    for way, shares in ways.items():
        ours = [share - least for share, least in zip(shares, floor, strict=True)]
        means = (statistics.mean(shares), statistics.mean(floor), statistics.mean(ours), max(ours))
        rows.append([way, *(f"{value:.2%}" for value in means)])
    work = f"{asked.rounds} rounds of {asked.users} users, sizes log-normal, sigma {asked.sigma}, {asked.shards} shards"
    columns = ["shards", "idle", "no schedule avoids", "the rest", "the rest, worst round"]
    show("Idle share of the shards' time, mean over rounds", columns, rows, work, machine())


if __name__ == "__main__":
    main()
