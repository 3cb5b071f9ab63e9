"""A small GPT that guesses each next word, with causal attention, and adapters over a frozen base if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from model import ModelBase
from model.softmax_loss import row_entropies, softmax_loss, view

Array = npt.NDArray[Any]

# PAD and UNK never count as hits.
PAD, UNK = 0, 1
_DEVIATION = 0.02


def _drawn(deviation: float = _DEVIATION) -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, deviation))


class AdaptedLinear(nn.Linear):  # type: ignore[misc]
    """A linear layer and beside it a product of two thin matrices: x W + b + (alpha / r) x A B.

    Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1: A is drawn, B begins with 0.
    Without a rank it is an ordinary layer.  Names of W and b are the same with and without.

    Args:
        inputs: of a row.
        outputs: of a row.
        rank: r; 0 for no adapter.
        alpha: 2 r, a usual choice, if None.
        deviation: of W at the start.
    """

    def __init__(
        self, inputs: int, outputs: int, rank: int, alpha: float | None = None, deviation: float = _DEVIATION
    ) -> None:
        super().__init__(inputs, outputs, weight_attr=_drawn(deviation))
        self.rank, self.scale = rank, 0.0
        if rank:
            self.scale = (2.0 * rank if alpha is None else alpha) / rank
            self.lora_a = self.create_parameter([inputs, rank], attr=_drawn(1 / sqrt(inputs)))
            zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
            self.lora_b = self.create_parameter([rank, outputs], attr=zero)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """From float (..., inputs)."""
        y = super().forward(x)
        return y + self.scale * x.matmul(self.lora_a).matmul(self.lora_b) if self.rank else y


class Block(nn.Layer):  # type: ignore[misc]
    """Attention to what came before, and a layer of each place for itself; norms come first (pre-norm).

    Args:
        hidden: H.
        heads: of attention.
        layers: blocks in all; what is added to the stream is drawn the smaller, as in GPT-2.
        rank: of adapters.
    """

    def __init__(self, hidden: int, heads: int, layers: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        small = _DEVIATION / sqrt(2 * layers)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv = AdaptedLinear(hidden, 3 * hidden, rank)
        self.joined = AdaptedLinear(hidden, hidden, rank, deviation=small)
        self.up = AdaptedLinear(hidden, 4 * hidden, rank)
        self.down = AdaptedLinear(4 * hidden, hidden, rank, deviation=small)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """From the stream, float (B, T, H), and -infinity where attention is not allowed, float (T, T)."""
        x = x + self._attend(self.norm1(x), mask)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    def _attend(self, x: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        rows, length, hidden = x.shape
        size = hidden // self.heads
        parts = self.qkv(x).reshape([rows, length, 3, self.heads, size]).transpose([2, 0, 3, 1, 4])
        query, key, value = parts[0], parts[1], parts[2]  # (B, heads, T, size)
        scores = query.matmul(key, transpose_y=True) * (1 / sqrt(size)) + mask
        mixed = nn.functional.softmax(scores).matmul(value)
        return self.joined(mixed.transpose([0, 2, 1, 3]).reshape([rows, length, hidden]))


class GPT(ModelBase):
    """Radford et al. 2019 (GPT-2) in small: words and places, blocks, and the words' own rows as the output layer.

    With adapters, they alone are learned and sent: all else is frozen, as it was drawn or given by `--init`.

    A batch has "x" and "y", integer (B, T), a word and the one after it, and "mask", float32 (B, T), what each counts
    in the loss; loss and metrics are those of `model.language_model.LanguageModel`.

    Args:
        vocab_size: V, words.
        length: T at most.
        hidden: H.
        layers: blocks.
        heads: of attention.
        rank: of adapters (LoRA); 0 for none.
    """

    examples_are_independent = True

    def __init__(self, vocab_size: int, length: int, hidden: int, layers: int, heads: int, rank: int) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"{hidden} numbers of a place are not to be shared by {heads} heads: give a multiple")
        self.word = nn.Embedding(vocab_size, hidden, weight_attr=_drawn())
        self.place = self.create_parameter([length, hidden], attr=_drawn())
        self.blocks = nn.LayerList([Block(hidden, heads, layers, rank) for _ in range(layers)])
        self.norm = nn.LayerNorm(hidden)
        # Beside the tied rows: how often each word comes is learned at once.
        self.out_bias = self.create_parameter([vocab_size], is_bias=True)
        if rank:
            # Of the instance: a model without adapters has nothing that is frozen.
            self.frozen = tuple(name for name, _ in self.named_parameters() if "lora_" not in name)

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """The mean over B x T places of masked cross entropy; see `ModelBase.loss`."""
        x, y, mask = (view(batch[name]) for name in ("x", "y", "mask"))
        needed, hits_possible = self._needed(y, mask)
        target = y.reshape(-1)[needed]
        factor = (mask.reshape(-1)[needed] / x.size).astype(np.float32)
        hidden = self._read(batch["x"], needed)
        loss, statistics = softmax_loss(hidden, self.word.weight.t(), self.out_bias, target, factor)
        hits = (statistics.guesses == target) & hits_possible
        return loss, {
            "loss": (statistics.total * x.size, float(x.size)),
            "top1": (float(hits.sum()), float((x != PAD).sum())),
        }

    def example_metrics(self, batch: Mapping[str, paddle.Tensor]) -> dict[str, tuple[Any, Any]]:
        """See `ModelBase.example_metrics`."""
        x, y, mask = (view(batch[name]) for name in ("x", "y", "mask"))
        needed, hits_possible = self._needed(y, mask)
        (rows, length), target, row = x.shape, y.reshape(-1)[needed], needed // x.shape[1]
        hidden = self._read(batch["x"], needed)
        entropy, guesses = row_entropies(hidden, self.word.weight.t(), [view(self.out_bias)], target)
        hits = (guesses == target) & hits_possible
        loss = mask.reshape(-1)[needed].astype(np.float64) * entropy
        return {
            "loss": (np.bincount(row, loss, rows), np.full(rows, float(length))),
            "top1": (np.bincount(row, hits, rows), (x != PAD).sum(1).astype(np.float64)),
        }

    def _needed(self, y: Array, mask: Array) -> tuple[Array, Array]:
        """Places of all B x T that count in the loss or can be hits, (K,), and which of these can be hits."""
        real = ((y != PAD) & (y != UNK)).reshape(-1)
        needed = np.flatnonzero((mask.reshape(-1) != 0) | real)
        return needed, real[needed]

    def _read(self, x: paddle.Tensor, needed: Array) -> paddle.Tensor:
        """What is made of the words up to each place that is needed, float32 (K, H)."""
        rows, length = x.shape
        later = paddle.triu(paddle.full([length, length], -np.inf), 1)
        stream = self.word(x) + self.place[:length]  # (B, T, H)
        for block in self.blocks:
            stream = block(stream, later)
        hidden = stream.reshape([rows * length, -1])
        if len(needed) < rows * length:
            hidden = paddle.gather(hidden, paddle.to_tensor(needed))
        return self.norm(hidden)
