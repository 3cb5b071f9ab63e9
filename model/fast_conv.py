"""A convolution as one matrix product over patches, on a CPU faster than Paddle's own.

Paddle copies the patches of one image after another, number by number, forward and again backward.  Here
the patches of many images are copied at once, in long runs, and kept for the backward pass; the products
are those of Paddle's matrix library.  ReLU and pooling that follow are done before the result is written.

Sums are taken in another order than in Paddle's convolution, so results agree to rounding, not to the bit.
The order depends on shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from numpy.lib.stride_tricks import as_strided
from paddle.autograd import PyLayer

from model.fast_pool import Floats, Winners, pooled

# Numbers in the patches that are made at once: more would leave the caches, and take much memory.
_AT_ONCE = 1 << 20
# With fewer numbers in the patches, Paddle's own convolution is as fast, for it makes fewer calls.
_WORTH = 100_000


@dataclass(frozen=True)
class Recipe:
    """What a convolution is beside its weights.

    Attributes:
        stride: of rows, of columns.
        padding: top, bottom, left, right; with zeros.
        relu: whether a ReLU follows, with `pool` before or behind it, which is the same.
        pool: whether max pooling of 2 x 2 follows.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    relu: bool = False
    pool: bool = False

    def padded(self, images: Sequence[int]) -> list[int]:
        """The sides of images (B, C, H, W) with their padding."""
        top, bottom, left, right = self.padding
        return [images[2] + top + bottom, images[3] + left + right]

    def sides(self, images: Sequence[int], weight: Sequence[int]) -> list[int]:
        """OH and OW, before pooling; less than 1 if the kernel is larger than an image with its padding."""
        sides = zip(self.padded(images), weight[2:], self.stride, strict=True)
        return [(side - taps) // step + 1 for side, taps, step in sides]


def is_worth_it(images: Sequence[int], weight: Sequence[int], recipe: Recipe) -> bool:
    """Whether a convolution of images (B, C, H, W) with weights (O, C, KH, KW) is faster this way.

    It is not where the images have few numbers in all, or fewer than the weights, which are copied too.
    """
    sides = recipe.sides(images, weight)
    numbers = images[0] * math.prod(sides) * math.prod(weight[1:])
    return min(sides) > 0 and numbers >= max(_WORTH, math.prod(weight))


def fast_conv2d(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None, recipe: Recipe) -> paddle.Tensor:
    """The convolution of images, without groups or dilation.

    Args:
        x: float32 (B, C, H, W), with its padding at least as large as the kernel.
        weight: float32 (O, C, KH, KW).
        bias: float32 (O,), or None.
        recipe: the rest.

    Returns:
        (B, O, OH, OW), or half of these sides with pooling; can be differentiated once unless gradients are off.
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if paddle.is_grad_enabled() and not all(each.stop_gradient for each in tensors):
        output: paddle.Tensor = _Convolution.apply(*tensors, recipe)
        return output
    return _Work(x.shape, weight.shape, recipe).forward(x, weight, bias)


class _Convolution(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, *rest: Any) -> paddle.Tensor:
        *biases, recipe = rest
        ctx.work = _Work(x.shape, weight.shape, recipe)
        # Paddle takes no gradient for what does not train, such as the images themselves.
        ctx.trains = [not each.stop_gradient for each in (x, weight, *biases)]
        ctx.save_for_backward(x)
        return ctx.work.forward(x, weight, biases[0] if biases else None, keep=True)

    @staticmethod
    def backward(ctx: Any, upstream: paddle.Tensor) -> tuple[paddle.Tensor | None, ...]:
        if paddle.is_grad_enabled():
            raise NotImplementedError(
                "a fast convolution has no gradient of its gradient (create_graph=True): set fast_layers = False in "
                "the trainer, or leave out model.fast_layers"
            )
        work: _Work = ctx.work
        return work.backward(*ctx.saved_tensor(), upstream, *ctx.trains)


def _view(tensor: paddle.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor's memory as an array, not copied."""
    return np.from_dlpack(tensor.detach())


def _copied(values: Floats) -> paddle.Tensor:
    """A tensor in Paddle's own memory, which is aligned the same way in every process."""
    made = paddle.empty(values.shape)
    _view(made)[...] = values
    return made


class _Work:
    """One call: its shapes, how its images are cut into blocks, and what is kept for the backward pass.

    With N = OH x OW and b images in a block, patches are (b x N, K) or (K, b x N), whichever is copied in longer
    runs, K = KH x KW x C; outputs are (b x N, O).  Arrays are seen with the axes of images (b, C, H, W) and patches
    (b, C, KH, KW, OH, OW), whatever the order of their memory.
    """

    def __init__(self, images: Sequence[int], weight: Sequence[int], recipe: Recipe) -> None:
        self.images, self.recipe = images, recipe
        self.filters, self.channels, *self.kernel = weight
        self.padded, self.out = recipe.padded(images), recipe.sides(images, weight)
        self.length = math.prod(self.kernel) * self.channels
        self.by_rows = self.kernel[1] * self.channels >= self.out[1]
        # What is no padding.
        top, _, left, _ = recipe.padding
        self.middle = (..., slice(top, top + images[2]), slice(left, left + images[3]))
        step = max(1, _AT_ONCE // (math.prod(self.out) * self.length))
        self.blocks = [slice(at, min(at + step, images[0])) for at in range(0, images[0], step)]
        # Kept: the weights as they were used, the patches if they were made at once; of each block, what counts.
        self.factor: paddle.Tensor
        self.patches: paddle.Tensor | None = None
        self.positive: list[Floats] = []
        self.winners: list[Winners] = []

    # -- forward -----------------------------------------------------------------

    def forward(
        self, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None, *, keep: bool = False
    ) -> paddle.Tensor:
        images, offset = _view(x), None if bias is None else _view(bias)[:, None, None]
        self.factor = _copied(_view(weight).transpose(2, 3, 1, 0)).reshape([self.length, self.filters])
        sides = [side // 2 for side in self.out] if self.recipe.pool else self.out
        made = paddle.empty([self.images[0], self.filters, *sides])
        to = _view(made)
        for block in self.blocks:
            patches = self._patches(images[block])
            product = paddle.matmul(patches, self.factor, transpose_x=not self.by_rows)
            self._finish(self._as_outputs(product), offset, to[block], keep=keep)
            if keep and len(self.blocks) == 1:
                self.patches = patches
        return made

    def _finish(self, outputs: Floats, offset: Floats | None, to: Floats, *, keep: bool) -> None:
        """Pools, adds the offset and cuts off at 0, in this order: adding does not change which is the largest."""
        if self.recipe.pool:
            outputs = pooled(outputs, self.winners if keep else None)
        np.add(outputs, np.float32(0) if offset is None else offset, out=to)
        if self.recipe.relu:
            np.maximum(to, 0, out=to)
            if keep:
                self.positive.append((to > 0).astype(np.float32))

    def _as_outputs(self, rows: paddle.Tensor) -> Floats:
        """(b x N, O) seen as (b, O, OH, OW)."""
        seen: Floats = _view(rows).reshape(-1, *self.out, self.filters).transpose(0, 3, 1, 2)
        return seen

    def _patches(self, images: Floats) -> paddle.Tensor:
        """The patches of (b, C, H, W)."""
        count = len(images)
        if self.by_rows or list(images.shape[2:]) != self.padded:
            padded = self._zeros(count, by_rows=self.by_rows)
            padded[self.middle] = images
            images = padded
        if self.by_rows:
            made = paddle.empty([count * math.prod(self.out), self.length])
            seen = _view(made).reshape(count, *self.out, *self.kernel, self.channels).transpose(0, 5, 3, 4, 1, 2)
        else:
            made = paddle.empty([self.length, count * math.prod(self.out)])
            seen = _view(made).reshape(*self.kernel, self.channels, count, *self.out).transpose(3, 2, 0, 1, 4, 5)
        of_image, of_channel, *of_place = images.strides
        steps = [stride * step for stride, step in zip(of_place, self.recipe.stride, strict=True)]
        seen[...] = as_strided(images, seen.shape, (of_image, of_channel, *of_place, *steps), writeable=False)
        return made

    def _zeros(self, count: int, *, by_rows: bool) -> Floats:
        """Images with their padding; with their channels last in memory if by rows."""
        if by_rows:
            return np.moveaxis(np.zeros((count, *self.padded, self.channels), np.float32), 3, 1)
        return np.zeros((count, self.channels, *self.padded), np.float32)

    # -- backward ----------------------------------------------------------------

    def backward(
        self, x: paddle.Tensor, upstream: paddle.Tensor, of_x: bool, of_weight: bool, *of_bias: bool
    ) -> tuple[paddle.Tensor | None, ...]:
        """The gradients that are asked for, None for the others."""
        images, given = _view(x), _view(upstream)
        x_grad = paddle.empty(self.images) if of_x else None
        weight_grad: paddle.Tensor | None = None
        bias_grad = np.zeros(self.filters, np.float32)
        for number, block in enumerate(self.blocks):
            part = given[block] * self.positive[number] if self.recipe.relu else given[block]
            if any(of_bias):
                bias_grad += part.reshape(*part.shape[:2], -1).sum(axis=2).sum(axis=0)
            errors = self._errors(part, number)
            if of_weight:
                product = self._weight_product(errors, images[block])
                weight_grad = product if weight_grad is None else weight_grad.add_(product)
            if x_grad is not None:
                _view(x_grad)[block] = self._image_gradient(errors)
        of_weights = None if weight_grad is None else self._as_weight(weight_grad)
        return (x_grad, of_weights, *(_copied(bias_grad) if asked else None for asked in of_bias))

    def _errors(self, part: Floats, number: int) -> paddle.Tensor:
        """The gradient of a block's outputs (b x N, O), given that of what became of them."""
        made = paddle.empty([len(part) * math.prod(self.out), self.filters])
        seen = self._as_outputs(made)
        if self.recipe.pool:
            self.winners[number].deal(part, seen)
        else:
            seen[...] = part
        return made

    def _weight_product(self, errors: paddle.Tensor, images: Floats) -> paddle.Tensor:
        patches = self._patches(images) if self.patches is None else self.patches
        if self.by_rows:
            return paddle.matmul(errors, patches, transpose_x=True)  # (O, K)
        return paddle.matmul(patches, errors)  # (K, O)

    def _as_weight(self, product: paddle.Tensor) -> paddle.Tensor:
        """The weights' gradient (O, C, KH, KW)."""
        if self.by_rows:
            return _copied(_view(product).reshape(self.filters, *self.kernel, self.channels).transpose(0, 3, 1, 2))
        return _copied(_view(product).reshape(*self.kernel, self.channels, self.filters).transpose(3, 2, 0, 1))

    def _image_gradient(self, errors: paddle.Tensor) -> Floats:
        """(b, C, H, W)."""
        # A product for each tap of the kernel, so that what it gives lies together.
        by_tap = self.factor.reshape([math.prod(self.kernel), self.channels, self.filters])
        products = _view(paddle.matmul(errors, by_tap, transpose_y=True))
        products = products.reshape(*self.kernel, -1, *self.out, self.channels).transpose(0, 1, 2, 5, 3, 4)
        padded = self._zeros(products.shape[2], by_rows=True)
        for i, j in np.ndindex(*self.kernel):
            rows, columns = (
                slice(at, at + step * (count - 1) + 1, step)
                for at, step, count in zip((i, j), self.recipe.stride, self.out, strict=True)
            )
            padded[:, :, rows, columns] += products[i, j]
        return padded[self.middle]
