"""A small GPT on the language model's data; with --lora-rank, adapters over a frozen base are all that travels.

mpirun -np 2 python examples/gpt.py lm_data
mpirun -np 2 python examples/gpt.py lm_data --lora-rank 4

With --init RUN/params/final.npz, the base is the model of a run without adapters; else it is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from reader import LeafRedditReader
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from gpt_model import GPT

# Words of a sequence, as the data is cut.
LENGTH = 10


class GPTSettings(Settings):
    """A small GPT: DATA is lm_data, or what its prepare.py makes."""

    lr: float = 0.5
    server_optimizer: str = "fedavg(lr=1.85)"
    vocab_size: int = Field(10_000, ge=3, description="words, PAD and UNK included")
    hidden: int = Field(128, ge=1, description="numbers of each place")
    layers: int = Field(2, ge=1, description="blocks of attention and a layer")
    heads: int = Field(4, ge=1, description="of attention; hidden is a multiple")
    lora_rank: int = Field(0, ge=0, description="of adapters, which alone are learned then; 0 trains all")


class GPTTrainer(TrainerBase):
    """SGD in file order."""

    takes = (*TrainerBase.takes, "vocab_size", "hidden", "layers", "heads", "lora_rank")
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    lora_rank: int

    def make_model(self) -> GPT:
        """The model."""
        from gpt_model import GPT

        return GPT(self.vocab_size, LENGTH, self.hidden, self.layers, self.heads, self.lora_rank)


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(GPTSettings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    framework.set_reader(LeafRedditReader(settings.vocab_size, LENGTH))
    framework.set_trainer(GPTTrainer())
    framework.run()


if __name__ == "__main__":
    main()
