"""The task of scale.py: made-up users and a model of `--elements` elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from tiny_task import TinyReader

from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from scale_model import WideModel


class WideTrainer(TrainerBase):
    """One step a user."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements

    def make_model(self) -> WideModel:
        """The model."""
        from scale_model import WideModel  # not at the top: it imports Paddle

        return WideModel(self.elements)


class WideSettings(Settings):
    """A model of any size on made-up users."""

    batch_size: int = 1000
    lr: float = 1e-3
    max_grad_norm: float | None = None
    elements: int = Field(1_000_000, ge=1, description="elements of the model's one parameter")


if __name__ == "__main__":
    settings = parse_settings(WideSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(TinyReader())
    framework.set_trainer(WideTrainer(settings.elements))
    framework.run()
