"""Takes train, test and val data out of LEAF's Reddit zip, with every user checked."""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lm_data.data_error import DataError
from lm_data.day_folders import TEST, TRAIN, VAL, VOCAB, leaf_file
from lm_data.tokens import SEQUENCE_LENGTH
from lm_data.vocabulary import usable_vocab

_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)

_log = logging.getLogger(__name__)


def split_of(member: str) -> str | None:
    """Tells the split of a zip member by the nearest name that says it.

    `train_data.json`, `train/reddit_0.json` and `reddit_0_train.json` are all train; None is for anything else.
    """
    path = PurePosixPath(member)
    if path.suffix != ".json" or path.name.startswith("._") or "__MACOSX" in path.parts or "vocab" in path.name:
        return None
    for part in (path.stem, *reversed(path.parent.parts)):
        said = {"train", "test", "val"} & set(re.split(r"[^a-z]+", part.lower()))
        if said:
            return said.pop() if len(said) == 1 else None
    return None


def _load(archive: zipfile.ZipFile, member: str) -> Any:
    try:
        with archive.open(member) as file:
            return json.load(file)
    except ValueError as error:
        raise DataError(f"{archive.filename}: {member} is not JSON: {error}") from error
    except _UNREADABLE as error:
        raise DataError(f"{archive.filename}: {member} cannot be read: {error}") from error


def checked_entry(entry: object, where: str) -> dict[str, Any]:
    """Checks one user's x and y and returns them with whole-number counts (LEAF writes 1.0).

    Raises:
        DataError: They are not in LEAF's form or do not match; the message begins with `where`.
    """
    x, y = (entry.get("x"), entry.get("y")) if isinstance(entry, dict) else (None, None)
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        sizes = [len(part) if isinstance(part, list) else "no list" for part in (x, y)]
        raise DataError(f"{where}: x and y do not match: {sizes[0]} and {sizes[1]} comments")
    labels = []
    for number, (comment, label) in enumerate(zip(x, y, strict=True)):
        _check_comment(comment, label, f"{where}, comment {number}")
        labels.append({**label, "count_tokens": [[int(count) for count in row] for row in label["count_tokens"]]})
    return {"x": x, "y": labels}


def _check_comment(comment: object, label: object, where: str) -> None:
    if not isinstance(label, dict):
        raise DataError(f"{where}: y is not an object with target_tokens and count_tokens")
    for name, rows in (("x", comment), *((name, label.get(name)) for name in ("target_tokens", "count_tokens"))):
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise DataError(f"{where}: {name} is not a list of sequences")
        if isinstance(comment, list) and len(rows) != len(comment):
            raise DataError(f"{where}: x and y do not match: {len(comment)} sequences in x, {len(rows)} in {name}")
        for row in rows:
            if len(row) != SEQUENCE_LENGTH:
                raise DataError(f"{where}: a sequence of {name} has length {len(row)}, not {SEQUENCE_LENGTH}")
            good = all(value in (0, 1) if name == "count_tokens" else isinstance(value, str) for value in row)
            if not good:
                raise DataError(f"{where}: {name} has a value that does not belong there: {row!r}")


def iterate_split(archive: zipfile.ZipFile, members: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields uid and entry of every user of a split, one member in memory at a time."""
    seen: dict[str, str] = {}
    for member in members:
        content, where = _load(archive, member), f"{archive.filename}: {member}"
        users, data = (content.get("users"), content.get("user_data")) if isinstance(content, dict) else (None, None)
        if not isinstance(users, list) or not isinstance(data, dict):
            raise DataError(f"{where}: not LEAF's form: no users or no user_data")
        if unlisted := data.keys() - {uid for uid in users if isinstance(uid, str)}:
            raise DataError(f"{where}: user {min(unlisted)!r} is in user_data but not in users")
        for uid in users:
            if not isinstance(uid, str) or uid in seen:
                raise DataError(f"{where}: user {uid!r} is not a string or was in {seen.get(str(uid))} already")
            if uid not in data:
                raise DataError(f"{where}: user {uid!r} is in users but not in user_data")
            seen[uid] = member
            yield uid, checked_entry(data.pop(uid), f"{where}: user {uid!r}")


def sequence_keys(uid: str, entry: Mapping[str, Any]) -> Iterator[bytes]:
    """Yields 8 bytes for every (uid, input sequence), to compare splits without holding their text."""
    for comment in entry["x"]:
        for sequence in comment:
            text = "\0".join((uid, *sequence)).encode("utf-8", "surrogatepass")
            yield hashlib.blake2b(text, digest_size=8).digest()


def warn_overlap(split: str, shared: int, total: int) -> None:
    """Warns when sequences of a split are also in train for the same user."""
    if shared:
        advice = "; LEAF's files from before December 2021 have the same train and test: get newer ones"
        _log.warning(
            "%d of %d %s sequences (%.1f %%) are also in train for the same user%s",
            shared,
            total,
            split,
            100 * shared / total,
            advice if 2 * shared > total else "",
        )


def _zip_vocab(archive: zipfile.ZipFile, stage: Path) -> None:
    """Takes over the zip's vocabulary if it is JSON and usable; anything else, pickles above all, stays unread."""
    for member in archive.namelist():
        path = PurePosixPath(member)
        if "vocab" not in path.name.lower() or path.name.startswith("._") or "__MACOSX" in path.parts:
            continue
        vocab = usable_vocab(_load(archive, member)) if path.suffix == ".json" else None
        if vocab is None:
            _log.warning("%s is not used: not JSON with ids <PAD> 0, <UNK> 1, 2, 3, ...", member)
        else:
            (stage / VOCAB).write_text(json.dumps(vocab), encoding="ascii")
            return


def lay_out_leaf(archive: zipfile.ZipFile, stage: Path, with_val: bool) -> None:
    """Writes the splits of LEAF's zip, and its vocabulary if it has a usable one, to `stage`.

    Raises:
        DataError: A split is missing, or a member is not in LEAF's form.
    """
    names = {"train": TRAIN, "test": TEST, **({"val": VAL} if with_val else {})}
    members: dict[str, list[str]] = {split: [] for split in names}
    for member in sorted(archive.namelist()):
        members.get(split_of(member) or "", []).append(member)
    for split in names:
        if not members[split]:
            raise DataError(f"{archive.filename}: no {split} JSON inside, only {sorted(archive.namelist())[:10]}")
    train_keys: set[bytes] = set()
    for split, name in names.items():
        shared = 0
        with leaf_file(stage / name) as writer:
            for uid, entry in iterate_split(archive, members[split]):
                writer.add(uid, entry)
                if split == "train":
                    train_keys.update(sequence_keys(uid, entry))
                else:
                    shared += sum(key in train_keys for key in sequence_keys(uid, entry))
        warn_overlap(split, shared, writer.sequences)
    _zip_vocab(archive, stage)
