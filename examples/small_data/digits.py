"""Digits drawn by 24 made-up hands, as MNIST's IDX files, with the writer of each digit."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SIDE = 28
# A digit's strokes in a square of 1: points (right, down) that lines join.
STROKES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.5, 0.1), (0.25, 0.25), (0.22, 0.7), (0.5, 0.9), (0.78, 0.7), (0.75, 0.25), (0.5, 0.1)),
    ((0.35, 0.25), (0.55, 0.1), (0.5, 0.9)),
    ((0.25, 0.25), (0.5, 0.1), (0.75, 0.28), (0.6, 0.55), (0.22, 0.88), (0.8, 0.87)),
    ((0.25, 0.15), (0.7, 0.15), (0.48, 0.45), (0.76, 0.65), (0.55, 0.9), (0.22, 0.82)),
    ((0.6, 0.9), (0.64, 0.1), (0.2, 0.62), (0.85, 0.6)),
    ((0.75, 0.12), (0.32, 0.12), (0.28, 0.48), (0.65, 0.48), (0.72, 0.75), (0.5, 0.9), (0.22, 0.84)),
    ((0.68, 0.12), (0.35, 0.4), (0.25, 0.72), (0.5, 0.9), (0.74, 0.72), (0.55, 0.54), (0.28, 0.68)),
    ((0.22, 0.14), (0.78, 0.13), (0.55, 0.5), (0.42, 0.9)),
    ((0.7, 0.2), (0.4, 0.12), (0.32, 0.35), (0.7, 0.65), (0.55, 0.9), (0.3, 0.75), (0.68, 0.35), (0.7, 0.2)),
    ((0.72, 0.3), (0.5, 0.46), (0.3, 0.3), (0.5, 0.12), (0.72, 0.28), (0.66, 0.6), (0.5, 0.9)),
)


def write(out: Path, seed: int) -> None:
    """960 digits of 24 writers to train on, and 160 of 8 others to be tested on, as MNIST has them."""
    rng = np.random.default_rng(seed)
    for part, first, writers, each in (("train", 0, 24, 40), ("t10k", 24, 8, 20)):
        images, labels, names = [], [], []
        for writer in range(first, first + writers):
            hand = Hand(rng)
            for label in rng.permutation(np.resize(np.arange(10), each)):
                images.append(hand.draw(int(label), rng))
                labels.append(int(label))
                names.append(str(writer))
        order = rng.permutation(len(labels))
        x, y = np.array(images)[order], np.array(labels, np.uint8)[order]
        _write_idx(out / f"{part}-images-idx3-ubyte.gz", x)
        _write_idx(out / f"{part}-labels-idx1-ubyte.gz", y)
        (out / f"{part}-writers.txt").write_text("".join(f"{names[row]}\n" for row in order), encoding="ascii")


class Hand:
    """How somebody writes: a slant, a size, a pen, and a shape of each digit of its own."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.slant, self.turn = rng.normal(0, 0.2), rng.normal(0, 0.12)
        self.size, self.pen = rng.uniform(16, 22, 2), rng.uniform(0.8, 1.6)
        self.strokes = [np.array(points) + rng.normal(0, 0.035, (len(points), 2)) for points in STROKES]

    def draw(self, label: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A digit, (28, 28)."""
        points = self.strokes[label] + rng.normal(0, 0.02, self.strokes[label].shape) - 0.5
        slant, turn = self.slant + rng.normal(0, 0.05), self.turn + rng.normal(0, 0.04)
        cos, sin = np.cos(turn), np.sin(turn)
        points = points @ np.array([[1, 0], [-slant, 1]]) @ np.array([[cos, sin], [-sin, cos]])
        points = points * self.size + SIDE / 2 - 0.5 + rng.normal(0, 0.6, 2)
        ink = np.clip(self.pen + 0.5 - _distance(points), 0, 1)
        return np.asarray(np.rint(255 * ink), np.uint8)


def _distance(points: Array) -> Array:
    """How far each pixel is from the nearest of the lines that join points, (28, 28)."""
    # A point (right, down) is the complex number right + i down.
    down, right = np.mgrid[:SIDE, :SIDE]
    pixels = (right + 1j * down).reshape(-1, 1)
    joined = points[:, 0] + 1j * points[:, 1]
    begin, along = joined[:-1], np.diff(joined)
    part = np.clip(((pixels - begin) * along.conj()).real / np.maximum(abs(along) ** 2, 1e-9), 0, 1)  # (784, lines)
    return np.asarray(abs(pixels - begin - part * along).min(axis=1).reshape(SIDE, SIDE))


def _write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), 6, mtime=0))
