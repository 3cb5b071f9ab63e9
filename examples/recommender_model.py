"""Matrix factorisation with biases, in which the rows of users are theirs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from model import ModelBase
from model.model_base import Learner
from model.softmax_loss import view

Array = npt.NDArray[Any]

# Numbers in the items' table up to which a step without Paddle's operators, with a gradient of all rows, is faster.
_SMALL = 100_000


class Factors(ModelBase):
    """Guesses a rating: mean + item's bias + user's bias + item's factors . user's factors.

    Koren, Bell, Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems", equations (3) to (5).
    What is the user's is private: nobody else ever needs it.

    A batch has "item", int64 (n,), from 1; "y", float32 (n,), the ratings; and "known", float32 (n, 2), the guesses
    of two yardsticks.  Metrics are mean squared errors: "loss" of the model, "loss_of_mean" and "loss_of_biases".

    Args:
        items: how many there are.
        factors: K, of each item and each user.
        decay: of all that a rating involves, in the loss.
    """

    private = ("user_*",)

    def __init__(self, items: int, factors: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        drawn = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.1))
        zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
        middle = paddle.ParamAttr(initializer=nn.initializer.Constant(3.0))
        # sparse: only the rows of items that occur get a gradient and an update.  Items begin with 1.
        self.item_factor = nn.Embedding(items + 1, factors, sparse=True, weight_attr=drawn)
        self.item_bias = nn.Embedding(items + 1, 1, sparse=True, weight_attr=zero)
        self.mean = self.create_parameter([1], attr=middle)
        self.user_factor = self.create_parameter([factors], attr=drawn)
        self.user_bias = self.create_parameter([1], attr=zero)

    def loss(self, batch: Mapping[str, paddle.Tensor]) -> tuple[paddle.Tensor, dict[str, tuple[Any, Any]]]:
        """Mean squared error and decay; see `ModelBase.loss`."""
        factor, bias = self.item_factor(batch["item"]), self.item_bias(batch["item"]).flatten()  # (n, K), (n,)
        error = batch["y"] - (self.mean + bias + self.user_bias + factor.matmul(self.user_factor))
        squared, n = (error * error).mean(), len(error)
        involved = (factor * factor).sum() / n + (bias * bias).mean()
        mine = (self.user_factor * self.user_factor).sum() + (self.user_bias * self.user_bias).sum()
        known = ((batch["known"] - batch["y"].unsqueeze(1)) ** 2).sum(0).numpy()
        return squared + self.decay * (involved + mine), {
            "loss": (float(squared) * n, n),
            "loss_of_mean": (float(known[0]), n),
            "loss_of_biases": (float(known[1]), n),
        }

    def learner(self, examples: Mapping[str, Array]) -> Learner | None:
        """The same in NumPy, for a table of items that is not large: a step on ten ratings is mostly overhead."""
        held = dict(self.named_parameters())
        if view(self.item_factor.weight).size > _SMALL or any(each.stop_gradient for each in held.values()):
            return None
        values = {name: view(each) for name, each in held.items()}
        gradients = {name: paddle.zeros_like(each) for name, each in held.items()}
        into = {name: view(each) for name, each in gradients.items()}

        def learn(batch: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
            with np.errstate(all="ignore"):  # what diverges is found, and named, where it is kept and summed
                loss = self._gradients(batch, values, into)
            for name, each in held.items():
                each.grad = gradients[name]
            n = len(batch["y"])
            known = np.square(batch["known"] - batch["y"][:, None]).sum(0)
            return {"loss": (loss, n), "loss_of_mean": (float(known[0]), n), "loss_of_biases": (float(known[1]), n)}

        return learn

    def _gradients(self, batch: Mapping[str, Array], values: Mapping[str, Array], into: Mapping[str, Array]) -> float:
        """Writes the gradients of `loss`; returns the sum of squared errors."""
        item, n, decay = batch["item"], len(batch["y"]), 2 * self.decay
        factor, bias, mine = values["item_factor.weight"][item], values["item_bias.weight"][item], values["user_factor"]
        guess = values["mean"] + bias[:, 0] + values["user_bias"] + factor @ mine
        error = batch["y"] - guess
        slope = error * np.float32(-2 / n)  # of the mean squared error, by the guesses
        for name in ("item_factor.weight", "item_bias.weight"):
            into[name].fill(0)
        np.add.at(into["item_factor.weight"], item, slope[:, None] * mine + factor * np.float32(decay / n))
        np.add.at(into["item_bias.weight"], item, slope[:, None] + bias * np.float32(decay / n))
        into["mean"][0] = into["user_bias"][0] = slope.sum()
        into["user_bias"] += np.float32(decay) * values["user_bias"]
        into["user_factor"][:] = slope @ factor + np.float32(decay) * mine
        return float(np.dot(error, error))
