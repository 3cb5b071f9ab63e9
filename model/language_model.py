"""The language model of LEAF's Reddit benchmark: embedding, LSTM, softmax over the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from model.model_base import ModelBase
from model.softmax_loss import row_entropies, softmax_loss, view

Array = npt.NDArray[Any]
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
        x, y, mask = (batch[name].numpy() for name in ("x", "y", "mask"))
        loss, metrics, _ = self.loss_from(x, y, mask, self.initial_state(len(x)))
        return loss, metrics

    def loss_from(
        self, x: Array, y: Array, mask: Array, state: State
    ) -> tuple[paddle.Tensor, dict[str, tuple[float, float]], State]:
        """Loss and metrics of a batch that goes on from a state.

        Args:
            x: integer (B, T), tokens.
            y: integer (B, T), the tokens that follow them.
            mask: float32 (B, T), what each position counts in the loss.
            state: hidden and cell, float32 (L, B, H) each.

        Returns:
            The mean over B x T positions of masked cross entropy; "loss" (sum, positions)
            and "top1" (hits that are neither PAD nor UNK, input tokens that are not PAD);
            the state after the last token, cut from the graph.
        """
        hidden, needed, real, state = self._read(x, y, mask, state)
        target = y.reshape(-1)[needed]
        factor = (mask.reshape(-1)[needed] / x.size).astype(np.float32)
        loss, statistics = softmax_loss(hidden, self.out.weight, self.out.bias, target, factor)
        hits = (statistics.guesses == target) & real.reshape(-1)[needed]
        metrics = {
            "loss": (statistics.total * x.size, float(x.size)),
            "top1": (float(hits.sum()), float((x != self.pad).sum())),
        }
        return loss, metrics, state

    def sums_from(
        self,
        x: Array,
        y: Array,
        mask: Array,
        state: State,
        own_biases: Sequence[Array] | None = None,
        bias_of: Array | None = None,
    ) -> tuple[dict[str, tuple[Array, Array]], State]:
        """The metrics of `loss_from` for each sequence by itself; without gradients.

        Args:
            x: as for `loss_from`.
            y: as for `loss_from`.
            mask: as for `loss_from`.
            state: as for `loss_from`.
            own_biases: float32 (V,) each, biases of the output layer in place of the model's.
            bias_of: integer (B,), which of them each sequence has.

        Returns:
            Name -> (sums, counts), float64 (B,) each; the state after the last token.
        """
        hidden, needed, real, state = self._read(x, y, mask, state)
        (rows, length), target, row = x.shape, y.reshape(-1)[needed], needed // x.shape[1]
        biases = [view(self.out.bias)] if own_biases is None else own_biases
        entropy, guesses = row_entropies(
            hidden, self.out.weight, biases, target, None if bias_of is None else bias_of[row]
        )
        hits = (guesses == target) & real.reshape(-1)[needed]
        loss = mask.reshape(-1)[needed].astype(np.float64) * entropy
        return {
            "loss": (np.bincount(row, loss, rows), np.full(rows, float(length))),
            "top1": (np.bincount(row, hits, rows), (x != self.pad).sum(1).astype(np.float64)),
        }, state

    def _read(self, x: Array, y: Array, mask: Array, state: State) -> tuple[paddle.Tensor, Array, Array, State]:
        """Hidden vectors (K, H) of the positions that are needed, which these K are, which of all can be hits, state.

        A position that neither counts in the loss nor can be a hit never meets the softmax.
        """
        hidden, (h, c) = self.lstm(self.embedding(paddle.to_tensor(x)), state)  # (B, T, H)
        hidden = hidden.reshape([-1, self.hidden_size])  # (B * T, H)
        real = (y != self.pad) & (y != self.unk)  # only these can be hits
        needed = np.flatnonzero((mask != 0) | real)
        if len(needed) < x.size:
            hidden = paddle.gather(hidden, paddle.to_tensor(needed))
        return hidden, needed, real, (h.detach(), c.detach())
