"""What was read of a day: how many examples each user has, and what it weighs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReadUsers:
    """What was read of a day and split, by a shard or by a whole simulator.

    Attributes:
        counts: uid -> examples.
        weights: uid -> weight, of those of whom one piece was read here that could be weighed by itself;
            training data only.
    """

    counts: dict[str, int] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, uid: str, count: int, weight: float | None) -> None:
        """Adds a piece of a user's examples; one that comes in several is weighed when all are there."""
        if uid in self.counts:
            self.weights.pop(uid, None)
            self.counts[uid] += count
            return
        self.counts[uid] = count
        if weight is not None:
            self.weights[uid] = weight

    def merge(self, other: ReadUsers) -> None:
        """Adds what another has read."""
        # Few users are read by both, most often none.
        both = {uid: self.counts[uid] + other.counts[uid] for uid in self.counts.keys() & other.counts.keys()}
        self.counts.update(other.counts)
        self.counts.update(both)
        self.weights.update(other.weights)
        for uid in both:
            self.weights.pop(uid, None)
