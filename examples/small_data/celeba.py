"""Drawn faces in the form of LEAF's CelebA: 12 people, 10 to 20 pictures each, smiling (1.0) or not (0.0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from small_data._leaf_form import write_leaf

PEOPLE, WIDTH, HEIGHT = 12, 178, 218


def write(out: Path, seed: int) -> None:
    """Pictures in raw/img_align_celeba; their names and 0.0 or 1.0."""
    rng = np.random.default_rng(seed)
    folder = out / "raw" / "img_align_celeba"
    folder.mkdir(parents=True)
    users = {}
    number = 0
    for k in range(PEOPLE):
        face = _Face(rng)
        names, smiles = [], (rng.random(int(rng.integers(10, 21))) < rng.beta(3, 3)).astype(float).tolist()
        for smile in smiles:
            number += 1
            names.append(f"{number:06d}.jpg")
            face.draw(bool(smile), rng).save(folder / names[-1], quality=80)
        users[str(1000 + k)] = names, smiles
    write_leaf(out, users)


class _Face:
    """A person: colours, and how wide face and mouth are."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._skin = _colour(rng.uniform([150, 100, 70], [250, 210, 180]))
        self._hair = _colour(rng.uniform(0, 140, 3))
        self._width, self._mouth = int(rng.integers(45, 65)), int(rng.integers(18, 30))

    def draw(self, smile: bool, rng: np.random.Generator) -> Image.Image:
        """A picture of 178 x 218."""
        image = Image.new("RGB", (WIDTH, HEIGHT), _colour(rng.uniform(0, 255, 3)))
        pen = ImageDraw.Draw(image)
        x, y = (int(v) for v in rng.normal([WIDTH / 2, HEIGHT / 2], 6))
        wide, tall = self._width, int(self._width * 1.35)
        pen.ellipse([x - wide - 8, y - tall - 14, x + wide + 8, y + tall - 30], fill=self._hair)
        pen.ellipse([x - wide, y - tall, x + wide, y + tall], fill=self._skin)
        for side in (-1, 1):
            pen.ellipse([x + side * 22 - 6, y - 22, x + side * 22 + 6, y - 12], fill=(20, 20, 20))
        mouth = (160, 30, 40)
        if smile:
            pen.chord([x - self._mouth, y + 10, x + self._mouth, y + 50], 0, 180, fill=mouth)
        else:
            pen.line([x - self._mouth, y + 36, x + self._mouth, y + 36], fill=mouth, width=5)
        return image


def _colour(values: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values)
    return red, green, blue
