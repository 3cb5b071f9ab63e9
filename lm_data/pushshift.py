"""Turns a pushshift comment dump into users with train and test comments.

A month's dump has tens of GB, so it is read twice and never held: the first pass counts the usable comments of every
author, the second keeps those of the chosen users. What is kept goes to bucket files, each small enough to be sorted
in memory. What stays in memory is one entry per author (about 150 bytes).

The steps follow LEAF's preprocessing of Reddit in spirit (Caldas et al., "LEAF: A Benchmark for Federated Settings",
2018). `comment_dump.py` reads the dump, `prepare.py` is the command line over this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lm_data.comment_dump import Comment, read_comments
from lm_data.data_error import DataError
from lm_data.tokens import cut, tokenize

_MAX_BUCKETS = 64  # open files at once: far below every system's limit
_BUCKET_COMMENTS = 200_000

_GONE = frozenset({"", "[deleted]", "[removed]"})
_BOT_NAME = re.compile(r"bot[\d_-]*$|^automoderator$", re.IGNORECASE)
_BOT_TEXT = re.compile(
    r"\bi(?: am|'m) a bot\b|\bthis is an? (?:automatic|automated|bot)\b|performed automatically|\bbeep boop\b"
    r"|\byour (?:post|comment|submission|link) (?:has been|was) (?:automatically )?removed\b"
    r"|\bthank(?:s| you) for (?:your submission|participating)\b"
)

_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A comment of a chosen user, in the order bucket files are sorted by; `text` is its tokens joined by blanks."""

    uid: str
    created: int
    comment_id: str
    subreddit: str
    text: str


@dataclass(frozen=True)
class Rules:
    """Which comments and users are kept.

    Attributes:
        salt: Secret that turns author names into uids.
        min_comments: Users with fewer usable comments are dropped.
        max_comments: Users with more usable comments are dropped.
        min_tokens: Comments with fewer tokens (<BOS> and <EOS> not counted) are dropped.
        users: How many users to sample; None keeps all.
        seed: Which sample of users. It does not depend on the salt.
        train_fraction: Share of a user's comments, the earliest, that goes to train.
    """

    salt: str
    min_comments: int = 5
    max_comments: int = 1000
    min_tokens: int = 5
    users: int | None = None
    seed: int = 0
    train_fraction: float = 0.6

    def __post_init__(self) -> None:
        """Raises DataError for settings that cannot be met."""
        if not self.salt:
            raise DataError("--salt is empty: names could be looked up; leave it out for a random one")
        if not 2 <= self.min_comments <= self.max_comments:
            raise DataError(
                f"--min-comments {self.min_comments} and --max-comments {self.max_comments}: "
                "need 2 <= min <= max, a user has at least one comment in train and one in test"
            )
        if self.users is not None and self.users < 1:
            raise DataError(f"--users {self.users}: need at least 1")
        if not 0 < self.train_fraction < 1:
            raise DataError(f"--train-fraction {self.train_fraction}: need a number between 0 and 1")


# ---- comments ----


def is_from_person(comment: Comment) -> bool:
    """Tells whether a comment is neither gone nor, by the simple rules above, from a bot."""
    if comment.author.strip() in _GONE or comment.body.strip() in _GONE:
        return False
    return not _BOT_NAME.search(comment.author) and not _BOT_TEXT.search(comment.body.lower().replace("\u2019", "'"))


def usable_tokens(comment: Comment, rules: Rules) -> list[str]:
    """Returns a comment's tokens; none when the comment is to be dropped."""
    tokens = tokenize(comment.body) if is_from_person(comment) else []
    return tokens if len(tokens) >= rules.min_tokens else []


# ---- users ----


def author_key(author: str) -> bytes:
    """Returns a short stand-in for a name, held in memory only."""
    return hashlib.blake2b(author.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def user_id(key: bytes, salt: str) -> str:
    """Returns the uid of an author key; nobody can go back to the name without the salt."""
    secret = hashlib.blake2b(salt.encode("utf-8", "surrogatepass")).digest()
    return hashlib.blake2b(key, key=secret, digest_size=8).hexdigest()


def count_comments(path: Path, rules: Rules) -> Counter[bytes]:
    """First pass: counts the usable comments of every author key."""
    counts: Counter[bytes] = Counter()
    for comment in read_comments(path):
        if usable_tokens(comment, rules):
            counts[author_key(comment.author)] += 1
    return counts


def choose_users(counts: Mapping[bytes, int], rules: Rules) -> list[bytes]:
    """Returns the author keys to keep: a function of the names, the counts and the seed.

    Raises:
        DataError: Too few users qualify.
    """
    able = [key for key, count in counts.items() if rules.min_comments <= count <= rules.max_comments]
    if len(able) < (rules.users or 1):
        raise DataError(
            f"{len(able)} of {len(counts)} users have {rules.min_comments} to {rules.max_comments} usable comments, "
            f"{rules.users or 1} needed: ask for fewer --users or widen --min-comments and --max-comments"
        )
    if rules.users is None:
        return able
    seed = f"{rules.seed}:".encode()
    return heapq.nsmallest(rules.users, able, key=lambda key: hashlib.blake2b(seed + key).digest())


def _plan_buckets(chosen: Iterable[bytes], counts: Mapping[bytes, int], salt: str) -> dict[bytes, tuple[str, int]]:
    """Gives every chosen author a uid and a bucket; uids rise from bucket to bucket."""
    by_uid = sorted((user_id(key, salt), key) for key in chosen)
    total = sum(counts[key] for _, key in by_uid)
    room = max(_BUCKET_COMMENTS, math.ceil(total / _MAX_BUCKETS))
    plan, before = {}, 0
    for uid, key in by_uid:
        plan[key] = (uid, before // room)
        before += counts[key]
    return plan


def _fill_buckets(path: Path, rules: Rules, plan: Mapping[bytes, tuple[str, int]], folder: Path) -> list[Path]:
    """Second pass: writes the chosen users' comments to their bucket files, one JSON line each."""
    buckets = [folder / f"bucket-{number}" for number in range(1 + max(number for _, number in plan.values()))]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(bucket.open("w", encoding="ascii")) for bucket in buckets]
        for comment in read_comments(path):
            place = plan.get(author_key(comment.author))
            tokens = usable_tokens(comment, rules) if place else []
            if place and tokens:
                kept = Kept(place[0], comment.created, comment.comment_id, comment.subreddit, " ".join(tokens))
                files[place[1]].write(json.dumps(kept) + "\n")
    return buckets


def _leaf_entry(comments: Iterable[Kept]) -> dict[str, Any]:
    entry: dict[str, Any] = {"x": [], "y": []}
    for comment in comments:
        inputs, targets, counts = cut(comment.text.split(" "))
        entry["x"].append(inputs)
        entry["y"].append({"target_tokens": targets, "count_tokens": counts, "subreddit": comment.subreddit})
    return entry


def iterate_users(path: Path, rules: Rules, folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields uid, train entry and test entry of every chosen user, by rising uid.

    The earliest `train_fraction` of a user's comments (rounded down, at least one) is train, the rest test.

    Args:
        path: The dump.
        rules: What to keep.
        folder: Where the bucket files may go; they grow to the size of the text that is kept.

    Raises:
        DataError: The dump cannot be used, or too few users qualify.
    """
    counts = count_comments(path, rules)
    plan = _plan_buckets(choose_users(counts, rules), counts, rules.salt)
    _log.info("%s: %d of %d users chosen", path.name, len(plan), len(counts))
    del counts
    dropped = 0
    for bucket in _fill_buckets(path, rules, plan, folder):
        with bucket.open(encoding="ascii") as file:
            kept = sorted({Kept(*json.loads(line)) for line in file})  # a set: a dump may repeat a line
        bucket.unlink()
        for uid, group in itertools.groupby(kept, key=lambda comment: comment.uid):
            comments = list(group)
            if len(comments) < rules.min_comments:
                dropped += 1
                continue
            split = max(1, math.floor(rules.train_fraction * len(comments) + 1e-9))  # 0.29 * 100 is 28.99...
            yield uid, _leaf_entry(comments[:split]), _leaf_entry(comments[split:])
    if dropped == len(plan):
        raise DataError(f"{path} repeats lines: without them no user has {rules.min_comments} usable comments")
    if dropped:
        _log.warning("%s repeats lines: without them %d of %d users have too few", path.name, dropped, len(plan))
