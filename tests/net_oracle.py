"""A net of two layers in NumPy, in float64, and what a run of a shard with its users gave.

Users have from 1 to 12 examples, cohorts are a part of them, the last batch is smaller; the second day has
other users.  Some users have never trained when they are tested, and one has nothing to train on.
"""

import numpy as np
import pytest
from paddle import nn
from shard_rounds import ShardRounds, made_up

from model import Classifier
from trainer import TrainerBase

FEATURES, WIDTH, CLASSES = 6, 5, 3
LR, EPOCHS, BATCH = 0.2, 2, 4
DAY, NEXT = "20200101", "20200102"
ROUNDS = ((DAY, "abc"), (DAY, "bd"), (DAY, "cae"), (NEXT, "dba"), (NEXT, "ac"))
TRAIN = {"a": 1, "b": 12, "c": 4, "d": 9, "e": 6, "f": 7}
DAYS = {
    DAY: {"train": made_up(TRAIN), "test": {}},
    NEXT: {
        "train": made_up({"a": 3, "b": 7, "c": 6, "d": 5, "f": 9}, seed=1),
        "test": made_up({"a": 8, "b": 5, "c": 1, "f": 9, "g": 6}, seed=2),
    },
}
# Parameters of the net in one vector, the head at its end.
SHAPES = {
    "layers.0.weight": (FEATURES, WIDTH), "layers.0.bias": (WIDTH,),
    "layers.2.weight": (WIDTH, CLASSES), "layers.2.bias": (CLASSES,),
}  # fmt: skip
BASE, HEAD = slice(0, 35), slice(35, 53)
NOTHING = np.zeros((0, FEATURES)), np.zeros(0, int)


class NetTrainer(TrainerBase):
    """Two dense layers."""

    def make_model(self):
        return Classifier(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


class Operators(Classifier):
    """The same by Paddle's operators."""

    def forward(self, x):
        return self.layers(x)


class OperatorsTrainer(TrainerBase):
    def make_model(self):
        return Operators(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


# -- the net -------------------------------------------------------------------------


def split(w):
    parts, at = [], 0
    for shape in SHAPES.values():
        size = int(np.prod(shape))
        parts.append(w[at : at + size].reshape(shape))
        at += size
    return parts


def joined(arrays, before=""):
    return np.concatenate([arrays[before + name].astype("float64").ravel() for name in SHAPES])


def features(w, x):
    first, bias, _, _ = split(w)
    return np.tanh(x @ first + bias)


def probabilities(w, x):
    _, _, last, bias = split(w)
    logits = features(w, x) @ last + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def loss_of(w, x, y):
    return float(-np.log(probabilities(w, x)[np.arange(len(y)), y]).mean())


def gradient(w, x, y, term=None):
    """Of the mean cross entropy; `term(z)` is added to its gradient by the features z."""
    _, _, last, _ = split(w)
    z, error = features(w, x), probabilities(w, x)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    back = error @ last.T
    if term is not None:
        back = back + term(z)
    back = back * (1 - z**2)
    return np.concatenate([(x.T @ back).ravel(), back.sum(0), (z.T @ error).ravel(), error.sum(0)])


# -- the rounds ----------------------------------------------------------------------


class Oracle:
    """What a run of the shard gave, and local training by hand.

    Args:
        bound: of the norm of gradients.
    """

    def __init__(self, folder, algorithm, bound, kind=NetTrainer):
        self.bound = bound
        trainer = kind(epochs=EPOCHS, batch_size=BATCH, lr=LR, max_grad_norm=bound)
        self.run = ShardRounds(folder, trainer, algorithm, DAYS)
        self.start = self.run.params
        for day, cohort in ROUNDS:
            self.run.train(day, cohort)
        self.tests = self.run.test(NEXT, NEXT)

    def rounds(self):
        """For each round the population, and x and y of its users."""
        for day, cohort in ROUNDS:
            yield len(DAYS[day]["train"]), {uid: self.data(day, "train", uid) for uid in cohort}

    @staticmethod
    def data(day, split, uid):
        examples = DAYS[day][split].get(uid)
        return NOTHING if examples is None else (examples["x"].astype("float64"), examples["y"].reshape(-1))

    def first(self):
        """The model that a run begins with, of whatever is shared."""
        return joined(self.start)

    def start_of(self, uid, shared=None):
        """A model of a user that has never trained."""
        return joined({**(shared or self.start), **self.run.start_of(uid)})

    def cut(self, g):
        norm = np.sqrt((g**2).sum())
        return g * min(1, self.bound / norm) if norm else g

    def batches(self, x, y, epochs=EPOCHS, size=BATCH):
        for _ in range(epochs):
            for i in range(0, len(y), size):
                yield x[i : i + size], y[i : i + size]

    def descend(self, w, x, y, extra=lambda w: 0.0, term=None, only=slice(None), epochs=EPOCHS):
        """Local SGD; `term(z, xb, yb)` as of `gradient`."""
        for xb, yb in self.batches(x, y, epochs):
            more = None if term is None else lambda z, xb=xb, yb=yb: term(z, xb, yb)
            g = np.zeros_like(w)
            g[only] = (gradient(w, xb, yb, more) + extra(w))[only]
            w = w - LR * self.cut(g)
        return w

    def close(self, found, expected):
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=0)

    def check(self, w):
        self.close(joined(self.run.params), w)
        # It has gone somewhere.
        assert np.abs(w - self.first()).max() > 0.02

    def check_kept(self, own, before="state/"):
        """own: the vector of each that has trained."""
        assert set(own) == set("abcde")
        for uid, vector in own.items():
            self.close(joined(self.run.kept(uid), before), vector)
        assert self.run.kept("f") is None

    def check_tests(self, models, name=""):
        """models: uid -> the vector of its model."""
        assert set(models) == set(self.tests) == set("abcfg")
        for uid, w in models.items():
            x, y = self.data(NEXT, "test", uid)
            found = self.tests[uid]
            assert found[f"{name}loss"] == pytest.approx(loss_of(w, x, y), abs=3e-5), uid
            assert found[f"{name}top1"] == pytest.approx((probabilities(w, x).argmax(1) == y).mean()), uid


def mean(deltas, weights):
    return sum(n * d for n, d in zip(weights, deltas, strict=True)) / sum(weights)


def by_examples(cohort, deltas):
    return mean(deltas, [len(y) for _, y in cohort.values()])
