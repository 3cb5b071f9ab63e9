"""model/softmax_loss.py: gradients equal Paddle's own, whatever part of the model is held fixed."""

from itertools import product

import numpy as np
import paddle
import pytest

from model.softmax_loss import softmax_loss


@pytest.mark.parametrize("fixed", [each for each in product([False, True], repeat=3) if not all(each)])
def test_gradients_of_what_trains(fixed):
    rng = np.random.default_rng(1)
    values = [rng.normal(size=shape).astype("float32") for shape in ((5, 3), (3, 7), (7,))]
    target, factor = rng.integers(0, 7, 5), rng.random(5).astype("float32")

    def tensors():
        return [paddle.to_tensor(v, stop_gradient=stop) for v, stop in zip(values, fixed, strict=True)]

    hidden, weight, bias = ours = tensors()
    loss, _ = softmax_loss(hidden, weight, bias, target, factor)
    loss.backward()
    hidden, weight, bias = theirs = tensors()
    rows = paddle.nn.functional.cross_entropy(hidden @ weight + bias, paddle.to_tensor(target), reduction="none")
    (rows.reshape([-1]) * paddle.to_tensor(factor)).sum().backward()
    for mine, paddles, stop in zip(ours, theirs, fixed, strict=True):
        assert (mine.grad is None) == stop
        if not stop:
            np.testing.assert_allclose(mine.grad.numpy(), paddles.grad.numpy(), atol=1e-6)
