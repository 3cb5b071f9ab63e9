"""The workload as a bare Paddle loop, with no framework round it; started by language_model.py.

python bare_paddle.py WORKLOAD SECONDS WORKERS

One process a worker.  A round's users are dealt out beforehand, longest first to the least loaded process; nothing
is exchanged, so a round is only as long as its slowest process trains.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from workload import (
    BATCH,
    HIDDEN,
    LAYERS,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    VOCABULARY,
    User,
    Workload,
    batches,
    report,
)

Lane = list[list[int]]


def deal(workload: Workload, workers: int) -> list[Lane]:
    """For each worker the users of each round."""
    lanes: list[Lane] = [[] for _ in range(workers)]
    for cohort in workload.cohorts:
        loads = [0] * workers
        for lane in lanes:
            lane.append([])
        for user in sorted(cohort, key=workload.size, reverse=True):
            lightest = loads.index(min(loads))
            lanes[lightest][-1].append(user)
            loads[lightest] += workload.size(user)
    return lanes


class Loop:
    """The model as Paddle's tutorials write it, and one user's training."""

    def __init__(self) -> None:
        import paddle

        paddle.seed(0)
        self.paddle = paddle
        uniform = paddle.ParamAttr(initializer=paddle.nn.initializer.Uniform(-0.1, 0.1))
        self.embedding = paddle.nn.Embedding(VOCABULARY, HIDDEN, sparse=True, weight_attr=uniform)
        self.lstm = paddle.nn.LSTM(HIDDEN, HIDDEN, LAYERS)
        self.out = paddle.nn.Linear(HIDDEN, VOCABULARY, weight_attr=uniform)
        self.parameters = [p for part in (self.embedding, self.lstm, self.out) for p in part.parameters()]
        self.start = [p.numpy() for p in self.parameters]
        self.sums = [np.zeros_like(value) for value in self.start]
        clip = paddle.nn.ClipGradByGlobalNorm(MAX_GRAD_NORM)
        self.optimizer = paddle.optimizer.SGD(LEARNING_RATE, parameters=self.parameters, grad_clip=clip)

    def train(self, user: User) -> None:
        """Trains one user from the start values and adds its weighted delta to the sums."""
        for parameter, value in zip(self.parameters, self.start, strict=True):
            parameter.set_value(value)
        hidden = self.paddle.zeros([LAYERS, BATCH, HIDDEN])
        cell = self.paddle.zeros([LAYERS, BATCH, HIDDEN])
        for arrays in batches(user):
            hidden, cell = self.step(arrays, hidden[:, : len(arrays[0])], cell[:, : len(arrays[0])])
        for total, parameter, value in zip(self.sums, self.parameters, self.start, strict=True):
            total += len(user[0]) * (parameter.numpy() - value)

    def step(self, arrays: User, hidden: Any, cell: Any) -> tuple[Any, Any]:
        """One batch; returns the LSTM's state after it."""
        x, y, mask = (self.paddle.to_tensor(rows) for rows in arrays)
        words, (hidden, cell) = self.lstm(self.embedding(x), (hidden, cell))
        entropy = self.paddle.nn.functional.cross_entropy(self.out(words), y, reduction="none")
        (entropy.reshape(mask.shape) * mask).mean().backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        return hidden.detach(), cell.detach()


def work(path: Path, lane: Lane, together: Any, results: Any) -> None:
    """The life of a worker: rounds begin together, and it notes how long each took it."""
    users, loop, seconds = Workload.load(path).users, Loop(), []
    for cohort in lane:
        together.wait()
        began = time.perf_counter()
        for user in cohort:
            loop.train(users[user])
        seconds.append(time.perf_counter() - began)
    results.put(seconds)


def main(path: Path, seconds: Path, workers: int) -> None:
    """Trains all rounds and reports."""
    lanes = deal(Workload.load(path), workers)
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=work, args=(path, lane, together, results), daemon=True) for lane in lanes]
    for process in processes:
        process.start()
    taken: Sequence[list[float]] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    report(seconds, np.max(taken, axis=0)[1:].tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
