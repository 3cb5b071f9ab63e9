"""Made-up tweets in the form of LEAF's Sent140: 30 users, 20 to 60 tweets each, glad (1) or sad (0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from small_data._leaf_form import write_leaf

USERS = 30
GLAD = "love great happy awesome thanks good fun nice best yay cool sweet wonderful lol haha"
SAD = "sad hate miss sick tired bad sorry ugh boo lost cry hurts alone broken worst"
OTHER = """I you the a to my is it in at for of and just so was going day today work home now time get got new back
again school sleep night morning weekend phone movie song rain sun coffee with this that not have"""


def write(out: Path, seed: int) -> None:
    """Tweets [id, date, query, user, text] and 0 or 1; users differ in how glad they are and in their words."""
    rng = np.random.default_rng(seed)
    glad_words, sad_words, other_words = GLAD.split(), SAD.split(), OTHER.split()
    users = {}
    number = 0
    for k in range(USERS):
        name = f"madeup{k:02d}"
        liking, gladness = rng.dirichlet(np.full(len(other_words), 0.5)), rng.beta(2, 2)
        tweets: list[list[str]] = []
        labels = (rng.random(int(rng.integers(20, 61))) < gladness).astype(int).tolist()
        for label in labels:
            words = list(rng.choice(other_words, int(rng.integers(8, 20)), p=liking))
            for _ in range(int(rng.integers(2, 5))):
                # One word in ten means the opposite of what it says.
                glad = bool(label) != bool(rng.random() < 0.1)
                words.insert(int(rng.integers(0, len(words) + 1)), str(rng.choice(glad_words if glad else sad_words)))
            text = " ".join(words) + str(rng.choice(["", ".", "!", "..."]))
            tweets.append([str(number), "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", name, text])
            number += 1
        users[name] = tweets, labels
    write_leaf(out, users)
