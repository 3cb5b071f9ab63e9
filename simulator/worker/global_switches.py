"""What a process has one of: the global random generators, and Paddle's own switches."""

from __future__ import annotations

import random

import numpy as np


def seed_everything(key: int) -> None:
    """Seeds the global generators of Paddle, NumPy and Python from a stream key."""
    import paddle

    paddle.seed(key % 2**31)
    np.random.seed(key % 2**32)
    random.seed(key)


class Switches:
    """Paddle's switches for the whole process; a user who leaves gradients off would stop all training here."""

    def __init__(self) -> None:
        import paddle

        self._paddle, self._dtype = paddle, paddle.get_default_dtype()

    def put_back(self) -> None:
        """Sets them as they were."""
        if not self._paddle.is_grad_enabled():
            self._paddle.set_grad_enabled(True)
        if self._paddle.get_default_dtype() != self._dtype:
            self._paddle.set_default_dtype(self._dtype)
