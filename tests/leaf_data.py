"""Made-up comments in LEAF's Reddit form."""

import json

import numpy as np

WORDS = ["<BOS>", "<EOS>", *(f"word{i}" for i in range(30))]


def sequences(rng, comments):
    """LEAF's entry of one user: sequences of ten tokens, the last of a comment padded."""
    x, y = [], []
    for _ in range(comments):
        tokens = ["<BOS>", *rng.choice([*WORDS[2:], "neverseen"], int(rng.integers(1, 25))), "<EOS>"]
        rows, targets, counts = [], [], []
        for i in range(0, len(tokens), 10):
            row, target = tokens[i : i + 10], tokens[i + 1 : i + 11]
            rows.append([*row, *["<PAD>"] * (10 - len(row))])
            targets.append([*target, *["<PAD>"] * (10 - len(target))])
            counts.append([1] * len(row) + [0] * (10 - len(row)))
        x.append(list(map(list, rows)))
        y.append({"target_tokens": targets, "count_tokens": counts})
    return {"x": x, "y": y}


def make_leaf(root, users=8, seed=0):
    """Two days, one file each, and a vocabulary that lacks one of the words used."""
    rng = np.random.default_rng(seed)
    names = [f"reader{k}" for k in range(users)]
    for day, split in (("20200101", "train"), ("20200102", "test")):
        (root / day).mkdir(parents=True)
        data = {uid: sequences(rng, int(rng.integers(1, 9))) for uid in names}
        counts = [len(data[uid]["x"]) for uid in names]
        content = {"users": names, "num_samples": counts, "user_data": data}
        (root / day / f"{split}_data.json").write_text(json.dumps(content))
    vocab = {"<PAD>": 0, "<UNK>": 1, **{word: i for i, word in enumerate(WORDS, 2)}}
    (root / "vocab.json").write_text(json.dumps({"vocab": vocab, "size": len(vocab), "unk_symbol": 1, "pad_symbol": 0}))
    return root
