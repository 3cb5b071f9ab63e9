"""Which simulator trains or tests which users of a cohort: by size, so that all finish together."""

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


# A group has at most this part of the examples that are left, so that the last ones are small and all finish together.
_PART = 16
# The smallest group there is, as a part of the largest.
_SMALLEST = 8


def groups_of(uids: Sequence[str], sizes: Sequence[int], most: int) -> list[list[int]]:
    """Cuts users into groups that are tested in one go, users of like size together.

    Which users meet depends on nothing but them: not on who tests them.

    Args:
        uids: of the users.
        sizes: examples of each.
        most: examples of a group; a user with more is one by itself.

    Returns:
        Indices of users: the longest first, and by uid where they are as long.
    """
    groups: list[list[int]] = []
    left, room = sum(sizes), 0
    for i in sorted(range(len(uids)), key=lambda i: (-sizes[i], uids[i])):
        if sizes[i] > room or not groups:
            groups.append([])
            room = max(1, most // _SMALLEST, min(most, left // _PART))
        groups[-1].append(i)
        room -= sizes[i]
        left -= sizes[i]
    return groups
