"""Makes a data folder of the simulator from LEAF's Reddit zip or from a pushshift comment dump.

    python lm_data/prepare.py leaf reddit_subsampled.zip my_data
    python lm_data/prepare.py pushshift RC_2017-12.zst my_data --users 1000 --seed 0

Both write my_data/20200101/train_data.json and my_data/20200102/test_data.json in LEAF's form; see README.md. Nothing
appears under its final name before all of it is there. Bad input ends with one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import heapq
import json
import logging
import lzma
import re
import secrets
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # mypy looks from the checkout, Python from this script's folder
    from lm_data import pushshift
    from lm_data.pushshift import PAD, SEQUENCE_LENGTH, UNK, DataError
else:
    import pushshift
    from pushshift import PAD, SEQUENCE_LENGTH, UNK, DataError

TRAIN, TEST, VAL, VOCAB = "train_data.json", "test_data.json", "val_data.json", "vocab.json"

_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)

_log = logging.getLogger(__name__)


# ---- output ----


def places(out: Path, train_day: str, test_day: str) -> dict[str, Path]:
    """Returns where each file goes.

    Raises:
        DataError: A day is not a date, or the test day is not the later one (days are played in order).
    """
    for day in (train_day, test_day):
        try:
            valid = datetime.strptime(day, "%Y%m%d").strftime("%Y%m%d") == day
        except ValueError:
            valid = False
        if not valid:
            raise DataError(f"day {day!r} is not a date; write it as YYYYMMDD")
    if train_day >= test_day:
        raise DataError(f"test day {test_day} must come after train day {train_day}: days are played in order")
    return {
        TRAIN: out / train_day / TRAIN,
        TEST: out / test_day / TEST,
        VAL: out / test_day / VAL,
        VOCAB: out / VOCAB,
    }


def refuse_existing(targets: Mapping[str, Path]) -> None:
    """Raises DataError when one of the files is there already."""
    for path in targets.values():
        if path.exists():
            raise DataError(f"{path} exists; use --force to replace it")


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Gives a temporary folder on OUT's own disk and removes it at the end, and OUT too if it was made for nothing."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as folder:
            yield Path(folder)
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()


def publish(stage: Path, targets: Mapping[str, Path]) -> None:
    """Moves finished files to their places and prints them; an earlier run's file without a successor is removed."""
    done = [name for name in targets if (stage / name).exists()]
    for name in done:  # first, so that what can fail fails before anything is moved
        targets[name].parent.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        if name in done:
            (stage / name).replace(target)
            print(target)
        else:
            target.unlink(missing_ok=True)


class LeafWriter:
    """Writes a file of LEAF's form one user at a time.

    Attributes:
        users: The uids written.
        num_samples: Comments of each of them.
        sequences: Sequences written.
    """

    def __init__(self, file: TextIO) -> None:
        self.users: list[str] = []
        self.num_samples: list[int] = []
        self.sequences = 0
        self._file = file

    def add(self, uid: str, entry: Mapping[str, Any]) -> None:
        """Appends a user; `entry` has x and y."""
        self._file.write(',\n"' if self.users else '{"user_data":{\n"')
        self._file.write(json.dumps(uid)[1:] + ":" + json.dumps(entry, separators=(",", ":")))
        self.users.append(uid)
        self.num_samples.append(len(entry["x"]))
        self.sequences += sum(len(comment) for comment in entry["x"])

    def close(self) -> None:
        """Writes the rest of the file; without it the file is not JSON."""
        tail = json.dumps({"users": self.users, "num_samples": self.num_samples}, separators=(",", ":"))
        self._file.write("\n}," + tail[1:] if self.users else '{"user_data":{},' + tail[1:])


@contextlib.contextmanager
def leaf_file(path: Path) -> Iterator[LeafWriter]:
    """Opens a LeafWriter and finishes the file if nothing was raised."""
    with path.open("w", encoding="ascii") as file:
        writer = LeafWriter(file)
        yield writer
        writer.close()
    _log.info("%s: %d users, %d sequences", path.name, len(writer.users), writer.sequences)


# ---- vocabulary ----


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


# ---- LEAF's zip ----


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


# ---- command line ----


def run_leaf(args: argparse.Namespace, stage: Path) -> None:
    """Runs the `leaf` command."""
    try:
        archive = zipfile.ZipFile(args.zip)
    except zipfile.BadZipFile as error:
        raise DataError(f"{args.zip} is not a zip: {error}") from error
    with archive:
        lay_out_leaf(archive, stage, args.val)


def run_pushshift(args: argparse.Namespace, stage: Path) -> None:
    """Runs the `pushshift` command."""
    if args.vocab_size < 3:
        raise DataError(f"--vocab-size {args.vocab_size}: need at least 3, two ids are <PAD> and <UNK>")
    rules = pushshift.Rules(
        salt=secrets.token_hex(32) if args.salt is None else args.salt,
        min_comments=args.min_comments,
        max_comments=args.max_comments,
        min_tokens=args.min_tokens,
        users=args.users,
        seed=args.seed,
        train_fraction=args.train_fraction,
    )
    counts: Counter[str] = Counter()
    with leaf_file(stage / TRAIN) as train, leaf_file(stage / TEST) as test:
        for uid, train_entry, test_entry in pushshift.iterate_users(args.dump, rules, stage):
            train.add(uid, train_entry)
            test.add(uid, test_entry)
            for comment in train_entry["x"]:
                for sequence in comment:
                    counts.update(sequence)
    (stage / VOCAB).write_text(json.dumps(build_vocab(counts, args.vocab_size)), encoding="ascii")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make a data folder of the simulator; see lm_data/README.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    leaf = commands.add_parser("leaf", help="lay out LEAF's reddit_subsampled.zip")
    leaf.add_argument("zip", type=Path, help="the zip with train, test and maybe val JSON files")
    leaf.add_argument("--val", action="store_true", help="also write val_data.json, beside the test file")
    leaf.set_defaults(run=run_leaf)
    dump = commands.add_parser("pushshift", help="turn a pushshift comment dump into LEAF's form")
    dump.add_argument("dump", type=Path, help="RC_*.bz2, .zst, .gz, .json or .jsonl")
    dump.add_argument("--min-comments", type=int, default=5, help="drop users with fewer usable comments (%(default)s)")
    dump.add_argument("--max-comments", type=int, default=1000, help="drop users with more (%(default)s)")
    dump.add_argument("--min-tokens", type=int, default=5, help="drop shorter comments (%(default)s)")
    dump.add_argument("--users", type=int, help="keep a sample of so many users (all)")
    dump.add_argument("--seed", type=int, default=0, help="which sample (%(default)s)")
    dump.add_argument("--train-fraction", type=float, default=0.6, help="earliest share of a user (%(default)s)")
    dump.add_argument("--vocab-size", type=int, default=10_000, help="ids in vocab.json (%(default)s)")
    dump.add_argument("--salt", help="secret for the uids (a random one per run, kept nowhere)")
    dump.set_defaults(run=run_pushshift)
    for command in (leaf, dump):
        command.add_argument("out", type=Path, help="the data folder to make")
        command.add_argument("--train-day", default="20200101", help="folder of the train file (%(default)s)")
        command.add_argument("--test-day", default="20200102", help="folder of the test file (%(default)s)")
        command.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    args = _parser().parse_args(argv)
    level = logging.INFO if sys.stderr.isatty() else logging.WARNING  # progress is for a person
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        targets = places(args.out, args.train_day, args.test_day)
        if not args.force:
            refuse_existing(targets)
        with staging(args.out) as stage:
            args.run(args, stage)
            publish(stage, targets)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
