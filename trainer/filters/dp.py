"""User-level differential privacy: clipped updates, and noise on their sum."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from scheduler import BadInput, Float64, Shapes, Step, check_number, register_filter
from trainer.filters.clip import Clip


@register_filter("dp")
@dataclass(frozen=True)
class UserDP(Clip):
    """Clipped updates that count equally, and Gaussian noise on their sum.

    McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", Algorithm 1 for cohorts of a
    fixed size |S|: each update is clipped to `norm`, users count equally, and the mean gets noise of standard
    deviation noise * norm / |S|, from the run's own streams.  What privacy that gives is not computed here.

    Args:
        norm: above 0.
        noise: standard deviation of the noise on the sum, in norms; 0 or more.
    """

    noise: float = 1.0

    counts_equally: ClassVar[bool] = True
    guards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("noise", self.noise, least=0.0)

    def check(self, shapes: Shapes) -> None:
        """Refuses shared buffers: with noise on it, a running variance may become negative."""
        buffers = [name for name in shapes.shared if name not in shapes.trained]
        if buffers:
            raise BadInput(f"dp: noise on buffers makes no sense; let users keep them: --private {','.join(buffers)}")

    def on_mean(self, name: str, mean: Float64, at: Step, rng: np.random.Generator) -> None:
        """Adds the noise."""
        mean += rng.normal(0.0, self.noise * self.norm / at.cohort, mean.size)
