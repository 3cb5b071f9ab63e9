"""Local training of the language model: the LSTM's state goes on from batch to batch of one user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.trainer_base import Examples, LocalTraining, Metrics, TrainerBase

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from model.language_model import LanguageModel


class LanguageModelTrainer(TrainerBase):
    """SGD in file order with carried state.

    Args:
        vocab_size: words of the vocabulary.
        hidden_size: of embedding and LSTM.
        num_layers: of the LSTM.
        numbers: as in `TrainerBase`.
    """

    def __init__(
        self, *, vocab_size: int = 10_000, hidden_size: int = 256, num_layers: int = 2, **numbers: Unpack[LocalTraining]
    ) -> None:
        super().__init__(**numbers)
        self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers

    def make_model(self) -> LanguageModel:
        """The language model."""
        from model.language_model import LanguageModel

        return LanguageModel(self.vocab_size, self.hidden_size, self.num_layers)

    def touched_rows(self, examples: Examples) -> dict[str, npt.NDArray[Any]]:
        """Plain SGD changes only the embeddings of words that occur."""
        return {"embedding.weight": np.unique(examples["x"])}

    def hold(self, examples: Examples) -> Examples:
        """Arrays as they are: the model looks at them before it makes tensors."""
        return examples

    def forward(self, model: Any, batch: Mapping[str, npt.NDArray[Any]], state: Any) -> tuple[Any, Metrics, Any]:
        """As `TrainerBase.forward`; the state starts at zero in every pass over the user's data."""
        rows = len(batch["x"])
        if state is None:
            state = model.initial_state(rows)
        elif rows < state[0].shape[1]:  # the last batch of a user may be smaller
            state = (state[0][:, :rows], state[1][:, :rows])
        return model.loss_from(batch["x"], batch["y"], batch["mask"], state)  # type: ignore[no-any-return]
