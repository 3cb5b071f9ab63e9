"""What goes into the head of a model: seen in passes forth, and given a gradient of an algorithm's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from protos.codec import Array
from protos.errors import BadInput
from scheduler.rules.local import OnFeatures

# A row of numbers for each example: rows of flat features.
_FLAT = 2


class HeadInput:
    """Watches the first layer of a head.

    Args:
        layer: a paddle.nn.Layer.
        name: of the layer.
        uid: whose turn it is, for errors.
    """

    def __init__(self, layer: Any, name: str, uid: str) -> None:
        self._layer, self._name, self._uid = layer, name, uid
        self._looking = False
        # Passes that told what goes in.
        self.told = 0

    def correct(self, on_features: OnFeatures) -> Callable[[], None]:
        """Has each pass forth tell what goes in; the gradient that is answered is added on the way back.

        Returns:
            Ends it.
        """
        self.told = 0

        def before(_: Any, inputs: tuple[Any, ...]) -> None:
            if self._looking:
                # `on_features` asks for the same batch at other parameters.
                return
            features = inputs[0]
            held = self._array(features)
            self.told += 1
            extra = on_features(held.copy())
            if extra is None or features.stop_gradient:
                return
            if extra.shape != held.shape:
                raise BadInput(
                    f"uid {self._uid!r}: on_features returns a gradient of shape {list(extra.shape)} for features of "
                    f"shape {list(held.shape)}"
                )
            import paddle

            term = paddle.to_tensor(np.asarray(extra, held.dtype))
            features.register_hook(lambda gradient: gradient + term)

        handle = self._layer.register_forward_pre_hook(before)
        return lambda: handle.remove()

    def check_told(self) -> None:
        """Raises BadInput if no pass of a training went through the layer, which then had no term."""
        if not self.told:
            raise BadInput(
                f"uid {self._uid!r}: training never calls the layer {self._name!r}, whose input this algorithm needs; "
                "have the model call it, and not work with its parameters"
            )

    def seen(self, passes: Callable[[], object], rows: int) -> Array:
        """What goes in while the model makes passes forth, (rows, d).

        Raises:
            BadInput: not one row of numbers for each example.
        """
        found: list[Array] = []

        def before(_: Any, inputs: tuple[Any, ...]) -> None:
            found.append(self._array(inputs[0]).copy())

        handle = self._layer.register_forward_pre_hook(before)
        self._looking = True
        try:
            passes()
        finally:
            self._looking = False
            handle.remove()
        count = sum(map(len, found))
        if count != rows:
            raise BadInput(
                f"uid {self._uid!r}: {count} rows of features went into {self._name!r} for {rows} examples; this "
                "algorithm needs a model whose head is called once for each batch, with a row for each example"
            )
        return np.concatenate(found)

    def _array(self, features: Any) -> Array:
        held: Array = np.from_dlpack(features.detach())
        if held.ndim != _FLAT:
            raise BadInput(
                f"uid {self._uid!r}: what goes into {self._name!r} has shape {list(held.shape)}; this algorithm needs "
                "a row of numbers for each example"
            )
        return held
