"""Makes a data folder of the simulator from LEAF's Reddit zip or from a pushshift comment dump.

    python lm_data/prepare.py leaf reddit_subsampled.zip my_data
    python lm_data/prepare.py pushshift RC_2017-12.zst my_data --users 1000 --seed 0

Where the simulator is installed without its sources, it is the command flsim-prepare.

Both write my_data/20200101/train_data.json and my_data/20200102/test_data.json in LEAF's form; see README.md. Nothing
appears under its final name before all of it is there. Bad input ends with one line on stderr and exit code 2.

`leaf_zip.py` and `pushshift.py` read what is given, `day_folders.py` writes.
"""

from __future__ import annotations

import argparse
import json
import logging
import secrets
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    # As a script it is alone: Python looks in this folder, and not in the one that has it.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lm_data import pushshift
from lm_data.data_error import DataError
from lm_data.day_folders import TEST, TRAIN, VOCAB, leaf_file, places, publish, refuse_existing, staging
from lm_data.leaf_zip import lay_out_leaf
from lm_data.vocabulary import build_vocab


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
