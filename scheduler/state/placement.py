"""Which simulator trains which user of a cohort: by size, so that all finish together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def place(sizes: Sequence[int], lanes: Sequence[int]) -> list[list[int]]:
    """Deals users out to simulators, longest first to the least loaded shard (LPT, Graham 1969).

    Args:
        sizes: work of each user, in examples.
        lanes: shards of each simulator.

    Returns:
        For each simulator the indices of its users, longest first.
    """
    heap = [(0, lane, simulator) for simulator, count in enumerate(lanes) for lane in range(count)]
    heapq.heapify(heap)
    placed: list[list[int]] = [[] for _ in lanes]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, lane, simulator = heapq.heappop(heap)
        placed[simulator].append(i)
        heapq.heappush(heap, (load + sizes[i], lane, simulator))
    return placed
