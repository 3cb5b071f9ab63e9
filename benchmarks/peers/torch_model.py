"""The workload's model in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from workload import HIDDEN, LAYERS, VOCABULARY

State = tuple[Tensor, Tensor]


class LanguageModel(nn.Module):
    """Embedding, LSTM, softmax over the vocabulary; weights start uniform in +-0.1, biases at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, LAYERS, batch_first=True)
        self.out = nn.Linear(HIDDEN, VOCABULARY)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -0.1, 0.1)

    def loss_from(self, x: Tensor, y: Tensor, mask: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Mean over all positions of the masked cross entropy, and the state after the last word."""
        hidden, after = self.lstm(self.embedding(x), state)  # (B, T, H)
        logits = self.out(hidden).flatten(0, 1)  # (B * T, V)
        entropy = torch.nn.functional.cross_entropy(logits, y.flatten(), reduction="none")
        return (entropy * mask.flatten()).mean(), after
