"""Reads LEAF's Reddit JSON (Caldas et al. 2018): comments cut in sequences of ten tokens."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from reader.leaf_json import ENDINGS, read_json, read_users
from reader.reader_base import DataError, Examples, ReaderBase
from reader.vocabulary import keep_vocabulary, most_common

logger = logging.getLogger(__name__)

PAD, UNK = 0, 1
PAD_TOKEN, UNK_TOKEN = "<PAD>", "<UNK>"


class LeafRedditReader(ReaderBase):
    """LEAF's Reddit files, plain or .gz, one or many a day.

    A user's examples are "x" and "y", int32 (n, seq_len): ids of the tokens and of
    the tokens that follow them, and "mask", float32 (n, seq_len): LEAF's count_tokens.
    Ids come from DATA/vocab.json; if it is missing it is built from the first day's
    training files and written there.

    Args:
        vocab_size: words of a vocabulary that is built, PAD and UNK included.
        seq_len: tokens in a sequence.
    """

    def __init__(self, vocab_size: int = 10_000, seq_len: int = 10) -> None:
        self.vocab_size = vocab_size
        self.seq_len = seq_len
        self._ids: dict[str, int] = {}

    def files(self, day: Path, split: str) -> list[Path]:
        """As `ReaderBase.files`, JSON only."""
        return [p for p in super().files(day, split) if p.name.endswith(ENDINGS)]

    def prepare(self, data: Path, train_files: Sequence[Path]) -> dict[str, Any]:
        """Reads vocab.json, or builds it."""
        path = data / "vocab.json"
        if path.exists():
            return {"vocab": _load_vocab(path, self.vocab_size)}
        vocab = build_vocab(train_files, self.vocab_size)
        logger.info("built a vocabulary of %d words from %d files", len(vocab), len(train_files))
        keep_vocabulary(path, {"vocab": vocab, "size": len(vocab), "unk_symbol": UNK, "pad_symbol": PAD})
        return {"vocab": vocab}

    def setup(self, shared: dict[str, Any]) -> None:
        """Takes the vocabulary."""
        self._ids = shared["vocab"]

    def read(self, path: Path) -> Iterator[tuple[str, Examples]]:
        """Yields (uid, {"x", "y", "mask"}).

        Raises:
            DataError: not LEAF's JSON; x and y that do not match; a user with no examples.
        """
        for uid, entry in read_users(path, orjson.loads):
            try:
                x = list(chain.from_iterable(entry["x"]))
                y = list(chain.from_iterable(comment["target_tokens"] for comment in entry["y"]))
                mask = list(chain.from_iterable(comment["count_tokens"] for comment in entry["y"]))
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{path}: uid {uid!r}: not LEAF's Reddit form: expected x (lists of token lists) and "
                    f"y (target_tokens, count_tokens), {type(error).__name__}: {error}"
                ) from error
            if not x:
                raise DataError(f"{path}: uid {uid!r} has no examples; remove the user")
            try:
                self._check(path, uid, entry, x, y, mask)
                examples = {"x": self._to_ids(x), "y": self._to_ids(y), "mask": self._to_floats(mask)}
            except DataError:
                raise
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: uid {uid!r}: sequences of x and target_tokens must be lists of tokens, "
                    f"and count_tokens must be numbers ({error})"
                ) from error
            yield uid, examples

    def _check(self, path: Path, uid: str, entry: dict[str, Any], x: list[Any], y: list[Any], mask: list[Any]) -> None:
        where = f"{path}: uid {uid!r}"
        if len(entry["x"]) != len(entry["y"]) or len(x) != len(y) or len(x) != len(mask):
            raise DataError(
                f"{where}: x and y do not match: {len(entry['x'])} comments with {len(x)} sequences in x, "
                f"{len(entry['y'])} with {len(y)} targets and {len(mask)} count_tokens in y"
            )
        for name, rows in (("x", x), ("target_tokens", y), ("count_tokens", mask)):
            lengths = set(map(len, rows))
            if lengths != {self.seq_len}:
                raise DataError(f"{where}: sequences of {name} have {sorted(lengths)} tokens, expected {self.seq_len}")

    def _to_ids(self, rows: list[list[str]]) -> npt.NDArray[np.int32]:
        # No line of Python for each token: there are millions.
        ids = map(self._ids.get, chain.from_iterable(rows), repeat(UNK))
        return np.fromiter(ids, np.int32, len(rows) * self.seq_len).reshape(-1, self.seq_len)

    def _to_floats(self, rows: list[list[float]]) -> npt.NDArray[np.float32]:
        numbers = np.fromiter(chain.from_iterable(rows), np.float32, len(rows) * self.seq_len)
        return numbers.reshape(-1, self.seq_len)


def build_vocab(files: Sequence[Path], size: int) -> dict[str, int]:
    """The `size` - 2 most common tokens of training files, ids from 2; equally common ones by name."""
    counts: Counter[str] = Counter()
    for path in files:
        for uid, entry in read_users(path, orjson.loads):
            try:
                for comment in entry["x"]:
                    counts.update(chain.from_iterable(comment))
            except (KeyError, TypeError) as error:
                raise DataError(f"{path}: uid {uid!r}: not LEAF's Reddit form ({error!r})") from error
    for special in (PAD_TOKEN, UNK_TOKEN):
        counts.pop(special, None)
    words = enumerate(most_common(counts, size - 2), start=2)
    return {PAD_TOKEN: PAD, UNK_TOKEN: UNK, **{word: i for i, word in words}}


def _load_vocab(path: Path, limit: int) -> dict[str, int]:
    content = read_json(path)
    # A plain word -> id mapping may have the word "vocab".
    inner = content.get("vocab") if isinstance(content, dict) else None
    vocab = inner if isinstance(inner, dict) else content
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise DataError(f"{path}: expected word -> id, or that under the key vocab")
    if vocab.get(PAD_TOKEN) != PAD or vocab.get(UNK_TOKEN) != UNK:
        raise DataError(
            f"{path}: {PAD_TOKEN} must have id {PAD} and {UNK_TOKEN} id {UNK}; delete the file to rebuild it"
        )
    if len(set(vocab.values())) != len(vocab):
        raise DataError(f"{path}: two words have the same id; delete the file to rebuild it")
    worst = max(vocab, key=lambda word: vocab[word])
    if min(vocab.values()) < 0 or vocab[worst] >= limit:
        raise DataError(f"{path}: word {worst!r} has id {vocab[worst]}; ids must be 0 to {limit - 1}")
    return vocab
