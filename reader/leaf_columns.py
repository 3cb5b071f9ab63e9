"""What x and y of LEAF's files become: numbers, characters, words, labels, images.  See `LeafReader`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from reader.reader_base import DataError
from reader.vocabulary import keep_vocabulary, most_common

Array = npt.NDArray[Any]
EachUser = Callable[[Callable[[list[Any]], None]], None]
# Of LEAF's models/utils/language_utils.py: a character's index is its place here.
LEAF_ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
# The words of a tweet, as LEAF cuts them.
_WORD = re.compile(r"[\w']+|[.,!?;]")


class Column(ABC):
    """A codec of a column; one of your own needs `form` and `encode`.

    It travels to the worker processes within its reader, so it holds plain values only.

    Attributes:
        form: type of one user's column in the file; what is of another is refused with its place.
    """

    form: ClassVar[Any] = list[Any]

    @abstractmethod
    def encode(self, values: list[Any]) -> Array:
        """An array with a row for each of a user's values, of which there is at least one.

        Raises:
            ValueError: a value cannot be; says which.
        """

    def prepare(self, data: Path, each_user: EachUser) -> Any:
        """What all readers share of it, something that JSON can hold; once in the run.

        Args:
            data: the data folder.
            each_user: has a function take the column of each user of the first day's training files; reads them all.
        """
        return None

    def setup(self, shared: Any) -> None:
        """Takes what `prepare` returned."""
        return

    def also_reads(self, data: Path) -> Sequence[Path]:
        """As `ReaderBase.also_reads`."""
        return []


@dataclass(frozen=True)
class Floats(Column):
    """Lists of numbers: float32 (n, *shape).

    Args:
        shape: of an example, whose numbers stand in one flat list; (1, 28, 28) for FEMNIST.
    """

    shape: tuple[int, ...]
    form: ClassVar[Any] = list[list[float]]

    def encode(self, values: list[Any]) -> Array:
        """As `Column.encode`."""
        length = prod(self.shape)
        _check_lengths(values, length, "numbers")
        with np.errstate(over="ignore"):
            rows = np.fromiter(chain.from_iterable(values), np.float32, len(values) * length)
        rows = rows.reshape(len(values), *self.shape)
        wrong = np.flatnonzero(~np.isfinite(rows.reshape(len(values), -1)).all(axis=1))
        if len(wrong):
            raise ValueError(f"example {wrong[0]} has a number beyond what float32 holds")
        return rows


@dataclass(frozen=True)
class Characters(Column):
    """Texts of one length: int32 (n, length), each character's place in an alphabet.

    Args:
        length: of each text, 80 in LEAF's Shakespeare; None for one character an example, int32 (n,).
        alphabet: characters in order; LEAF's 80.
    """

    length: int | None = None
    alphabet: str = LEAF_ALPHABET
    form: ClassVar[Any] = list[str]

    def encode(self, values: list[Any]) -> Array:
        """As `Column.encode`."""
        _check_lengths(values, 1 if self.length is None else self.length, "characters")
        # One look-up for all of them: there are 80 an example.
        codes = _codes("".join(values))
        known = _codes(self.alphabet)
        places = np.full(max(int(known.max()), int(codes.max())) + 1, -1, np.int32)
        places[known] = np.arange(len(known), dtype=np.int32)
        ids: Array = places[codes]
        if (ids < 0).any():
            first = int((ids < 0).argmax())
            raise ValueError(
                f"example {first // (self.length or 1)} has the character {chr(codes[first])!r}, which is none of the "
                f"{len(self.alphabet)} of the alphabet"
            )
        return ids if self.length is None else ids.reshape(-1, self.length)


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


@dataclass(frozen=True)
class Labels(Column):
    """Classes: int64 (n,).

    Args:
        classes: how many: whole numbers from 0, 1.0 counts as 1; or their names in order.
    """

    classes: int | tuple[str, ...]

    def encode(self, values: list[Any]) -> Array:
        """As `Column.encode`."""
        if isinstance(self.classes, tuple):
            places = {name: place for place, name in enumerate(self.classes)}
            wrong = next((i for i, value in enumerate(values) if type(value) is not str or value not in places), None)
            if wrong is None:
                return np.array([places[value] for value in values], np.int64)
            raise ValueError(f"example {wrong} is of class {values[wrong]!r}; classes are {', '.join(self.classes)}")
        for i, value in enumerate(values):
            # Of true and 1 the types differ alone.
            if type(value) not in (int, float) or value != int(value) or not 0 <= value < self.classes:
                raise ValueError(f"example {i} is of class {value!r}; classes are 0 to {self.classes - 1}")
        return np.array(values, np.int64)


class _WordList(msgspec.Struct):
    """Words in order, as in LEAF's embs.json, whose vectors are left alone."""

    vocab: list[str]


class Words(Column):
    """Texts of words: int32 (n, length), each word's place in a vocabulary.

    The vocabulary is DATA/embs.json, which LEAF's get_embs.py makes, or DATA/vocab.json of the same form, an object
    with the words in order under "vocab".  If neither is there, it is the most common words of the first day's
    training files, and is written to DATA/vocab.json.  As in LEAF, words are what its pattern finds, capitals are
    kept, and longer texts are cut.  Words that are not in the vocabulary, and what is missing at the end of a text,
    have the last index, size - 1.

    Args:
        size: indices, at least one more than words.
        length: words of an example.
        place: of the text in an example that is a list, as 4 in Sent140's; None if an example is the text.
    """

    def __init__(self, size: int, length: int, place: int | None = None) -> None:
        self.size, self.length, self.place = size, length, place
        self._ids: dict[str, int] = {}

    def encode(self, values: list[Any]) -> Array:
        """As `Column.encode`."""
        ids = np.full((len(values), self.length), self.size - 1, np.int32)
        for row, text in zip(ids, self._texts(values), strict=True):
            words = _WORD.findall(text)[: self.length]
            row[: len(words)] = [self._ids.get(word, self.size - 1) for word in words]
        return ids

    def prepare(self, data: Path, each_user: EachUser) -> list[str]:
        """The words: read, or counted."""
        for path in (data / "embs.json", data / "vocab.json"):
            if path.exists():
                return self._read(path)
        counts: Counter[str] = Counter()

        def count(values: list[Any]) -> None:
            for text in self._texts(values):
                counts.update(_WORD.findall(text))

        each_user(count)
        words = most_common(counts, self.size - 1)
        keep_vocabulary(data / "vocab.json", {"vocab": words})
        return words

    def setup(self, shared: list[str]) -> None:
        """Takes the words."""
        self._ids = {word: i for i, word in enumerate(shared)}

    def _read(self, path: Path) -> list[str]:
        try:
            words = msgspec.json.decode(path.read_bytes(), type=_WordList).vocab
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(f'{path}: expected an object with a list of words under "vocab": {error}') from error
        if len(words) >= self.size:
            raise DataError(
                f"{path}: {len(words)} words and one index for all others need {len(words) + 1} indices, there are "
                f"{self.size}; make them more (--vocab-size)"
            )
        return words

    def _texts(self, values: list[Any]) -> Iterable[str]:
        for i, value in enumerate(values):
            text = value
            if self.place is not None:
                text = value[self.place] if isinstance(value, list) and len(value) > self.place else None
            if not isinstance(text, str):
                what = "a text" if self.place is None else f"a list with a text at place {self.place}"
                raise ValueError(f"example {i} is {str(value)[:60]!r}; expected {what}")
            yield text


@dataclass(frozen=True)
class Images(Column):
    """Names of image files: uint8 (n, 3, size, size), red, green and blue from 0 to 255; the model makes floats of it.

    Args:
        folder: where the files are, raw/img_align_celeba in LEAF's CelebA.
        size: to which images are stretched, as LEAF does.
    """

    # Where data lies is no part of what a resumed run is held to.
    folder: Path = field(compare=False)
    size: int
    form: ClassVar[Any] = list[str]

    def encode(self, values: list[Any]) -> Array:
        """As `Column.encode`."""
        return np.stack([self._pixels(name) for name in values])

    def also_reads(self, data: Path) -> Sequence[Path]:
        """The folder."""
        return [self.folder]

    def _pixels(self, name: str) -> Array:
        from PIL import Image

        path = self.folder / name
        try:
            with Image.open(path) as image:
                small = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {path} cannot be read: {error}") from error
        return np.ascontiguousarray(np.asarray(small, np.uint8).transpose(2, 0, 1))


def _check_lengths(values: list[Any], length: int, what: str) -> None:
    lengths = set(map(len, values))
    if lengths - {length}:
        wrong = next(i for i, value in enumerate(values) if len(value) != length)
        raise ValueError(f"example {wrong} has {len(values[wrong])} {what}, expected {length}")
