"""Has the convolutions of a model done faster: its layers stay what they are, with another way to their result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import paddle
from paddle import nn

from model.fast_conv import Recipe, fast_conv2d, is_worth_it


@contextmanager
def fast_layers(model: nn.Layer) -> Iterator[nn.Layer]:
    """Where a model's layers that can be done faster on a CPU are done so; behind it they are Paddle's again.

    These are `Conv2D` without groups or dilation, in NCHW, and `Sequential`, where a `ReLU` and a `MaxPool2D` of 2 x 2
    that follow such a convolution are done with it.  Subclasses of these are left alone.  Parameters, their names and
    shapes, hooks and attributes stay.  Paddle does what is too small to gain, no float32 on the CPU, or in a static
    program.

    Results agree with Paddle's to rounding, not to the bit.  Paddle differentiates layers with a gradient of their
    own once, for all parameters: use `backward()` once for each loss, and leave this out where a gradient of a
    gradient, `retain_graph` or `paddle.grad` for some of the parameters is wanted.

    Args:
        model: whose layers get another class meanwhile.

    Yields:
        The model.
    """
    layers = model.sublayers(include_self=True)
    convolutions = [layer for layer in layers if type(layer) is nn.Conv2D and _recipe(layer) is not None]
    sequences = [layer for layer in layers if type(layer) is nn.Sequential] if convolutions else []
    for layer in convolutions:
        layer.__class__ = FastConv2D
    for layer in sequences:
        layer.__class__ = FastSequential
    try:
        yield model
    finally:
        for layer in convolutions:
            layer.__class__ = nn.Conv2D
        for layer in sequences:
            layer.__class__ = nn.Sequential


class FastConv2D(nn.Conv2D):
    """A convolution done as a matrix product."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """As Paddle's."""
        recipe = self.recipe(x)
        if recipe is None:
            return super().forward(x)
        return fast_conv2d(x, self.weight, self.bias, recipe)

    def recipe(self, x: paddle.Tensor) -> Recipe | None:
        """How it is done; None if Paddle must do it."""
        recipe, weight = _recipe(self), self.weight
        if recipe is None or not _is_plain(x) or weight.dtype != paddle.float32:
            return None
        # Images that do not fit are refused by Paddle, in its own words.
        return recipe if x.shape[1] == weight.shape[1] and is_worth_it(x.shape, weight.shape, recipe) else None


class FastSequential(nn.Sequential):
    """Layers one after another; a convolution with the ReLU and the pooling behind it is one."""

    def forward(self, x: Any) -> Any:
        """As Paddle's."""
        layers = list(self._sub_layers.values())
        while layers:
            layer = layers.pop(0)
            recipe = layer.recipe(x) if _is_bare(layer, FastConv2D) else None
            if recipe is None:
                x = layer(x)
                continue
            sides = recipe.sides(x.shape, layer.weight.shape)
            while layers and (more := _with(recipe, layers[0], sides)) is not None:
                recipe = more
                layers.pop(0)
            x = fast_conv2d(x, layer.weight, layer.bias, recipe)
        return x


def _with(recipe: Recipe, layer: nn.Layer, sides: list[int]) -> Recipe | None:
    """The recipe with a layer that follows done, too; None if that cannot be."""
    if not recipe.relu and _is_bare(layer, nn.ReLU):
        return replace(recipe, relu=True)
    if not recipe.pool and min(sides) > 1 and _is_bare(layer, nn.MaxPool2D) and _is_2x2(layer):
        return replace(recipe, pool=True)
    return None


def _is_bare(layer: nn.Layer, kind: type[nn.Layer]) -> bool:
    """Whether it is of just this class, and nobody asks to be told when it is called."""
    return type(layer) is kind and not layer._forward_pre_hooks and not layer._forward_post_hooks


def _is_plain(x: Any) -> bool:
    """Whether it is a batch of float32 images on the CPU, to be done at once as it is."""
    return (
        paddle.in_dynamic_mode()
        and isinstance(x, paddle.Tensor)
        and x.ndim == 4
        and x.dtype == paddle.float32
        and x.place.is_cpu_place()
    )


def _recipe(layer: nn.Conv2D) -> Recipe | None:
    """What a convolution is beside its weights; None if it is of a kind that is left to Paddle."""
    if layer._groups != 1 or layer._dilation != [1, 1] or layer._data_format != "NCHW":
        return None
    if layer._padding_mode != "zeros" or layer._padding_algorithm == "SAME":
        return None
    padding = list(layer._updated_padding)
    if len(padding) == 2:
        padding = [padding[0], padding[0], padding[1], padding[1]]
    down, right = layer._stride
    top, bottom, left, right_side = padding
    return Recipe((down, right), (top, bottom, left, right_side))


def _is_2x2(layer: nn.MaxPool2D) -> bool:
    """Whether it pools squares of 2 x 2 that lie side by side, and leaves out what is no whole square."""
    twos = (2, [2, 2], (2, 2))
    return (
        layer.ksize in twos
        and (layer.stride is None or layer.stride in twos)
        and layer.padding in (0, [0, 0], (0, 0))
        and not layer.return_mask
        and not layer.ceil_mode
        and layer.data_format == "NCHW"
    )
