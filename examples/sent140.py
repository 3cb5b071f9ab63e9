"""LEAF's Sent140: whether a tweet is glad or sad, a user is who wrote it.

python examples/make_data.py sent140 /tmp/sent140
mpirun -np 2 python examples/sent140.py /tmp/sent140 --net bag --lr 1 --rounds 60
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from reader import Labels, LeafReader, Words
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from trainer import TrainerBase

if TYPE_CHECKING:
    from model import Classifier

# Words of a tweet: LEAF's for the LSTM; all that 140 characters can hold for the bag.
LENGTHS = {"lstm": 25, "bag": 140}


class Sent140Settings(Settings):
    """LEAF's Sent140: DATA is its data/sent140/data, or what make_data.py makes."""

    # Of LEAF's models/baseline_constants.py and models/utils/args.py.
    lr: float = 0.0003
    batch_size: int = 10
    max_grad_norm: float | None = None
    net: Literal["lstm", "bag"] = Field("lstm", description="the model: two LSTM layers, or a bag of words")
    vocab_size: int = Field(10_000, ge=2, description="words, and one for all others; GloVe's embs.json needs 400001")


class Sent140Trainer(TrainerBase):
    """SGD in small batches, in a new order each epoch."""

    takes = (*TrainerBase.takes, "net", "vocab_size")
    net: Literal["lstm", "bag"]
    vocab_size: int

    def make_model(self) -> Classifier:
        """The model."""
        from sent140_model import bag, lstm

        return lstm(self.vocab_size) if self.net == "lstm" else bag(self.vocab_size)

    def touched_rows(self, examples: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Plain SGD changes only the rows of words that occur."""
        name = "layers.0.weight" if self.net == "lstm" else "layers.0.rows.weight"
        return {name: np.unique(examples["x"])}


def main() -> None:
    """Settings, pieces, run: the same lines on every rank."""
    settings = parse_settings(Sent140Settings)
    framework = SimulationFramework(FLSimRoleMaker(), settings)
    # A tweet is [id, date, query, user, text].
    words = Words(settings.vocab_size, LENGTHS[settings.net], place=4)
    framework.set_reader(LeafReader(words, Labels(2)))
    framework.set_trainer(Sent140Trainer(shuffle=True))
    framework.run()


if __name__ == "__main__":
    main()
