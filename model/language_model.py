"""The language model of LEAF's Reddit benchmark: embedding, LSTM, softmax over the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

from model.model_base import ModelBase

State = tuple[paddle.Tensor, paddle.Tensor]


class LanguageModel(ModelBase):
    """Next-word prediction.

    Weights start uniform in +-0.1, biases at 0.

    Args:
        vocab_size: V, words.
        hidden_size: H, of embedding and LSTM.
        num_layers: L, of the LSTM.
        pad: id of PAD, which never counts as a hit; nor does `unk`.
        unk: id of UNK.
    """

    def __init__(
        self, vocab_size: int = 10_000, hidden_size: int = 256, num_layers: int = 2, pad: int = 0, unk: int = 1
    ) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = num_layers, hidden_size
        self.pad, self.unk = pad, unk
        weight = paddle.ParamAttr(initializer=nn.initializer.Uniform(-0.1, 0.1))
        bias = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        # sparse: only the rows of words that occur get a gradient and an update
        self.embedding = nn.Embedding(vocab_size, hidden_size, sparse=True, weight_attr=weight)
        self.lstm = nn.LSTM(
            hidden_size,
            hidden_size,
            num_layers=num_layers,
            weight_ih_attr=weight,
            weight_hh_attr=weight,
            bias_ih_attr=bias,
            bias_hh_attr=bias,
        )
        self.out = nn.Linear(hidden_size, vocab_size, weight_attr=weight, bias_attr=bias)

    def initial_state(self, batch: int) -> State:
        """Zero hidden and cell state, float32 (L, batch, H) each."""
        shape = [self.num_layers, batch, self.hidden_size]
        return paddle.zeros(shape), paddle.zeros(shape)

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Loss and metrics from a zero state; see `loss_from`."""
        loss, metrics, _ = self.loss_from(batch, self.initial_state(batch["x"].shape[0]))
        return loss, metrics

    def loss_from(
        self, batch: Mapping[str, paddle.Tensor], state: State
    ) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]], State]:
        """Loss and metrics of a batch that goes on from a state.

        Args:
            batch: x, y integer (B, T), mask float32 (B, T).
            state: hidden and cell, (L, B, H) each.

        Returns:
            The mean over B x T positions of masked cross entropy; "loss" (sum, positions)
            and "top1" (hits that are neither PAD nor UNK, input tokens that are not PAD);
            the state after the last token, cut from the graph.
        """
        x, y, mask = batch["x"], batch["y"], batch["mask"]
        hidden, state = self.lstm(self.embedding(x), state)  # (B, T, H)
        logits = self.out(hidden)  # (B, T, V)
        entropy = functional.cross_entropy(logits, y, reduction="none").reshape(mask.shape)  # (B, T)
        total = (entropy * mask).sum()
        guess = logits.detach().argmax(axis=-1)
        hits = ((guess == y) & (y != self.pad) & (y != self.unk)).sum()
        positions = float(mask.size)
        metrics = {"loss": (total.detach(), positions), "top1": (hits, (x != self.pad).sum())}
        return total / positions, metrics, (state[0].detach(), state[1].detach())
