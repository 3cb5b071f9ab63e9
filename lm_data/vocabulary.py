"""The content of vocab.json: built from counted tokens, or checked when it comes from elsewhere."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from lm_data.tokens import PAD, UNK


def build_vocab(counts: Mapping[str, int], size: int) -> dict[str, Any]:
    """Builds the content of vocab.json.

    Args:
        counts: How often each token stands in the train data.
        size: Most ids to give, <PAD> (0) and <UNK> (1) included.

    Returns:
        The commonest tokens with ids from 2 on; of equally common ones the alphabetically first comes first.
    """
    words = heapq.nsmallest(
        size - 2, (word for word in counts if word not in (PAD, UNK)), key=lambda word: (-counts[word], word)
    )
    vocab = {word: number for number, word in enumerate([PAD, UNK, *words])}
    return {"vocab": vocab, "size": len(vocab), "unk_symbol": 1, "pad_symbol": 0}


def usable_vocab(content: object) -> dict[str, Any] | None:
    """Returns a vocabulary in the form of vocab.json, or None if its ids are not 0 <PAD>, 1 <UNK>, 2, 3, ..."""
    vocab = content.get("vocab") if isinstance(content, dict) else None
    if not isinstance(vocab, dict) or vocab.get(PAD) != 0 or vocab.get(UNK) != 1:
        return None
    if any(type(number) is not int for number in vocab.values()) or sorted(vocab.values()) != list(range(len(vocab))):
        return None
    return {"vocab": vocab, "size": len(vocab), "unk_symbol": 1, "pad_symbol": 0}
