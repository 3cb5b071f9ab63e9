"""Local training of the language model: the LSTM's state goes on from batch to batch of one user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.local_user import EvaluatedUser, Examples, Metrics
from trainer.side_by_side import alike, joined, user_sums
from trainer.trainer_base import LocalTraining, TrainerBase

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from model.language_model import LanguageModel

# Sequences of users who are tested in one go; fewer if each user brings a bias, which is as long as the vocabulary.
_TOGETHER, _WITH_OWN = 2048, 1024
# What of the model may be private in such a test.
_OWN = "out.bias"


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

    def tests_together(self, model: Any, private: Sequence[str]) -> int:
        """Users stand side by side, if no more of the model is private than the bias of the output layer."""
        from model.language_model import LanguageModel

        plain = self._is_plain(LanguageModelTrainer, "evaluate_user", "forward", "batches", "hold")
        known = getattr(type(model), "loss_from", None) is LanguageModel.loss_from
        if not plain or not known or not set(private) <= {_OWN}:
            return 0
        return _WITH_OWN if private else _TOGETHER

    def evaluate_users(self, model: Any, users: Sequence[EvaluatedUser]) -> list[Metrics]:
        """As `TrainerBase.evaluate_users`; each user has states of its own that go on as by `forward`."""
        if not self.tests_together(model, ()):
            return super().evaluate_users(model, users)
        totals: list[Metrics] = [{} for _ in users]
        for places in alike([user.examples for user in users]):
            for place, metrics in zip(places, self._side_by_side(model, [users[p] for p in places]), strict=True):
                totals[place] = metrics
        return totals

    def _side_by_side(self, model: Any, users: Sequence[EvaluatedUser]) -> list[Metrics]:
        """Metrics of users whose examples are alike.

        A sequence goes on from the state that the one `batch_size` before it has left.  So a user is up to
        `batch_size` rows, each a row of sequences: those of all users go through the model together, the
        longest first, so that those that are left are always the first ones.
        """
        import paddle

        examples = joined([user.examples for user in users])
        lanes: list[tuple[int, range]] = []
        first = 0
        for owner, user in enumerate(users):
            count = len(user.examples["x"])
            lanes += [(owner, range(first + k, first + count, self.batch_size)) for k in range(self.batch_size)]
            first += count
        lanes = sorted((lane for lane in lanes if lane[1]), key=lambda lane: -len(lane[1]))
        own = [user.private[_OWN] for user in users] if _OWN in users[0].private else None
        pairs: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
        with paddle.no_grad():
            state = model.initial_state(len(lanes))
            for step in range(len(lanes[0][1])):
                active = [(owner, sequences[step]) for owner, sequences in lanes if step < len(sequences)]
                owners, rows = (np.array(each) for each in zip(*active, strict=True))
                state = (state[0][:, : len(rows)], state[1][:, : len(rows)])
                batch = (examples[name][rows] for name in ("x", "y", "mask"))
                found, state = model.sums_from(*batch, state, own, None if own is None else owners)
                for name, pair in found.items():
                    into = pairs.setdefault(name, (np.zeros(first), np.zeros(first)))
                    into[0][rows], into[1][rows] = pair
        return user_sums(pairs, [len(user.examples["x"]) for user in users])
