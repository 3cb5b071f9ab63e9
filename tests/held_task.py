"""The tiny task with a trainer, a reader and a sampler that hold things; variables say which.

HELD_MU, HELD_SEED: of the trainer and of the sampler's generator.
HELD_FUNCTION: the order of the users goes by "one" or the "other" of two lambdas.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tiny_task import TinyReader, TinySettings, TinyTrainer

from scheduler import Sampler
from simulator import FLSimRoleMaker, SimulationFramework, parse_settings


class HeldTrainer(TinyTrainer):
    """Knows a number."""

    def __init__(self, mu, **settings):
        super().__init__(**settings)
        self.mu = mu


@dataclass
class Drawn(Sampler):
    """Two or three users, by what it holds; its `repr` has an address in it."""

    rng: np.random.Generator
    scale: Callable

    def sample(self, users, at):
        return sorted(users.uids, key=self.scale)[: 2 + int(self.rng.bit_generator.state["state"]["state"]) % 2]


if __name__ == "__main__":
    settings = parse_settings(TinySettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(TinyReader())
    framework.set_trainer(HeldTrainer(float(os.environ.get("HELD_MU", "0.1"))))
    scale = (lambda uid: uid) if os.environ.get("HELD_FUNCTION", "one") == "one" else (lambda uid: uid[::-1])
    framework.set_sampler(Drawn(np.random.default_rng(int(os.environ.get("HELD_SEED", "3"))), scale))
    framework.run()
