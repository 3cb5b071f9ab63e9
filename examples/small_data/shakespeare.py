"""A made-up play in the form of LEAF's Shakespeare: 12 roles, 80 characters and the next one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from small_data._leaf_form import write_leaf

ROLES, LENGTH = 12, 80
WORDS = """the and of to my I you that in is not it his with but be your for this me have thou as he thy so him will
what her all no by do we are our shall if on love lord come sir king good now more from well at would was they then
she let how may O which make there know give man speak us say their one upon here see yet like take night day heart
hand death life blood world time heaven eyes sweet fair friend father brother sword crown"""


def write(out: Path, seed: int) -> None:
    """Texts of 80 characters and the character that follows; each role has words of its own liking."""
    rng = np.random.default_rng(seed)
    words = WORDS.split()
    users = {}
    for k in range(ROLES):
        text = _speech(rng, words, rng.dirichlet(np.full(len(words), 0.2)), int(rng.integers(150, 200)))
        starts = range(len(text) - LENGTH)
        users[f"THE_MADE_UP_PLAY_ROLE_{k}"] = [text[i : i + LENGTH] for i in starts], [text[i + LENGTH] for i in starts]
    # Or the test would hold the ends of what is trained on, as LEAF's script knows too.
    write_leaf(out, users, gap=LENGTH - 1)


def _speech(rng: np.random.Generator, words: list[str], liking: npt.NDArray[np.float64], characters: int) -> str:
    text = ""
    while len(text) < characters + LENGTH:
        first, *rest = (str(word) for word in rng.choice(words, int(rng.integers(3, 9)), p=liking))
        text += " ".join([first.capitalize(), *rest]) + str(rng.choice([".", ".", "!", "?"])) + " "
    return text
