"""Who got what, for a person: an SVG with a bar a user, and a line in words."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np

from reader.partition.dealing import Dealt
from reader.partition.plain_set import Int64

_WIDTH, _HEIGHT, _LEFT, _TOP = 960, 320, 60, 34
_IN_A_ROW = 12


def label_counts(dealt: Dealt) -> Int64:
    """How many of each label each user trains on, (users, labels)."""
    y, classes = dealt.source.train.y, dealt.source.classes
    return np.array([np.bincount(y[user.rows], minlength=classes) for user in dealt.train], np.int64)


def who_got_what(dealt: Dealt, title: str) -> str:
    """The picture: users from left to right, a stacked bar each, a colour for each label."""
    counts = label_counts(dealt)
    users, classes = counts.shape
    most, wide = int(counts.sum(axis=1).max()), _WIDTH / users
    names = dealt.source.train.names or tuple(str(label) for label in range(classes))
    rows = -(-classes // _IN_A_ROW)
    height = _TOP + _HEIGHT + 40 + 16 * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" '
        f'font-family="sans-serif" font-size="11">',
        "<style>" + "".join(f".c{label}{{fill:{_colour(label, classes)}}}" for label in range(classes)) + "</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="13">{escape(title)}</text>',
    ]
    for share in (0, 0.5, 1):
        y = _TOP + _HEIGHT * (1 - share)
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{most * share:,.0f}</text>')
        parts.append(f'<path d="M{_LEFT} {y:g}h{_WIDTH}" stroke="#ddd"/>')
    for place, (user, row) in enumerate(zip(dealt.train, counts, strict=True)):
        x, drawn = _LEFT + place * wide, wide * (0.85 if wide > 4 else 1)
        said = f"{user.uid}: {row.sum():,} examples, {np.count_nonzero(row)} labels"
        parts.append(f'<g class="user"><title>{escape(said)}</title>{_bar(x, drawn, row, most)}</g>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP + _HEIGHT + 16}">{users:,} users; labels:</text>')
    for label, name in enumerate(names[:classes]):
        x = _LEFT + label % _IN_A_ROW * (_WIDTH / _IN_A_ROW)
        y = _TOP + _HEIGHT + 26 + 16 * (label // _IN_A_ROW)
        parts.append(f'<rect class="c{label}" x="{x:g}" y="{y}" width="10" height="10"/>')
        parts.append(f'<text x="{x + 14:g}" y="{y + 9}">{escape(name[:10])}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _bar(x: float, wide: float, row: Int64, most: int) -> str:
    tops = _TOP + _HEIGHT * (1 - np.cumsum(row) / most)
    high = _HEIGHT * row / most
    return "".join(
        f'<path class="c{label}" d="M{x:.2f} {tops[label]:.2f}h{wide:.2f}v{high[label]:.2f}h-{wide:.2f}z"/>'
        for label in np.flatnonzero(row)
    )


def _colour(label: int, classes: int) -> str:
    # Neighbours differ in lightness, too: hues of many classes are close.
    return f"hsl({360 * label / classes:.0f},65%,{(45, 62, 78)[label % 3]}%)"


def in_words(dealt: Dealt) -> str:
    """The line: how many users, how unequal they are in size and in labels, and who is tested on what."""
    counts = label_counts(dealt)
    sizes, labels = counts.sum(axis=1), np.count_nonzero(counts, axis=1)
    mix = counts.sum(axis=0) / counts.sum()
    apart = (np.abs(counts / sizes[:, None] - mix).sum(axis=1) / 2).mean()
    there, tested = len(dealt.source.train), sum(len(user.rows) for user in dealt.test)
    left = there - int(sizes.sum()) - (tested if dealt.test_set is dealt.source.train else 0)
    parts = (
        f"{sizes.sum():,} examples of {len(sizes):,} users: {sizes.min():,} to {sizes.max():,} each, "
        f"median {np.median(sizes):g}",
        f"{labels.min()} to {labels.max()} of {dealt.source.classes} labels, {labels.mean():.1f} on average",
        f"{apart:.2f} apart from all users' mix of labels (0 alike, 1 nothing in common)",
        f"{left:,} left out",
        f"tested on {tested:,} examples of {len(dealt.test):,} users",
    )
    return "; ".join(parts)
