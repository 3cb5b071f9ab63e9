"""The tokens of a comment, and the sequences that a comment is cut in."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

SEQUENCE_LENGTH = 10
PAD, UNK, BOS, EOS = "<PAD>", "<UNK>", "<BOS>", "<EOS>"

_PLAIN_MARKS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
_URL = re.compile(r"(?:https?://|www\.)[^\s()\[\]<>\"]+")
_USER = re.compile(r"(?<![\w/])/?(?:u|user)/[\w-]+")
_SUBREDDIT = re.compile(r"(?<![\w/])/?r/\w+")
_TOKEN = re.compile(
    r"<(?:URL|USER|SUBREDDIT)>"
    r"|\d+(?:[.,]\d+)+(?![a-z0-9])"  # 3.5 and 10,000 stay whole
    r"|[a-z0-9]+(?:['-][a-z0-9]+)*"  # so do don't and well-known
    r"|[!-/:-@\[-`{-~]"  # any other printable mark stands alone
)


def tokenize(body: str) -> list[str]:
    """Splits a comment into lower-case ASCII tokens, punctuation on its own.

    HTML entities are decoded and accents dropped. An address becomes <URL>, `u/name` <USER> (so that mentions do not
    give names away), `r/name` <SUBREDDIT>.
    """
    text = html.unescape(body).translate(_PLAIN_MARKS).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    for pattern, token in ((_URL, " <URL> "), (_USER, " <USER> "), (_SUBREDDIT, " <SUBREDDIT> ")):
        text = pattern.sub(token, text)
    return _TOKEN.findall(text)


def cut(tokens: Iterable[str]) -> tuple[list[list[str]], list[list[str]], list[list[int]]]:
    """Cuts a comment into sequences for next-token prediction.

    Args:
        tokens: The comment without <BOS> and <EOS>.

    Returns:
        Inputs, targets and counts, each (sequences, SEQUENCE_LENGTH). A target is the input that follows. A count is
        1 on every real input, <EOS> included, and 0 on <PAD>, as in LEAF.
    """
    whole = [BOS, *tokens, EOS]
    inputs, targets, counts = [], [], []
    for start in range(0, len(whole), SEQUENCE_LENGTH):
        piece = whole[start : start + SEQUENCE_LENGTH]
        after = whole[start + 1 : start + 1 + SEQUENCE_LENGTH]
        inputs.append(piece + [PAD] * (SEQUENCE_LENGTH - len(piece)))
        targets.append(after + [PAD] * (SEQUENCE_LENGTH - len(after)))
        counts.append([1] * len(piece) + [0] * (SEQUENCE_LENGTH - len(piece)))
    return inputs, targets, counts
