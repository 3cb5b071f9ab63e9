"""Where a parameter or buffer of a model belongs, whatever a turn puts there."""

from __future__ import annotations

from typing import Any

import numpy as np

from protos.codec import Array
from simulator.worker.layer_state import LayerState


class Place:
    """Where a parameter or buffer belongs: its layer's registry, the tensor there and that tensor's memory.

    User code may put another tensor in its place (`self.seen = 0.9 * self.seen + x` does),
    or give the tensor other memory, another dtype or shape (`layer.to(...)`).  The tensor
    and the memory that the model was made with are kept, and come back.  Optimizers that
    hold on to either stay right.
    """

    def __init__(self, layer: LayerState, key: str) -> None:
        self._registry, self._tensor = layer.registry_of(key)
        self._key = key
        if not self._tensor.is_contiguous():
            # A view of another's memory, such as a transposed one: sums and copies go through it as one row.
            self._tensor.data = self._tensor.detach().contiguous()
        # It keeps the memory alive, too.
        self.home: Array = np.from_dlpack(self._tensor.detach())
        self._memory = self._memory_of(self._tensor)
        self._stop_gradient = self._tensor.stop_gradient

    @staticmethod
    def _memory_of(tensor: Any) -> tuple[Any, ...]:
        return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.strides  # 0.1 us each

    @property
    def tensor(self) -> Any:
        """What is there now."""
        return self._registry[self._key]

    @property
    def kept(self) -> bool:
        """Whether the tensor is still there, in its own memory."""
        return self._registry.get(self._key) is self._tensor and self._memory_of(self._tensor) == self._memory

    def copy(self) -> Array:
        """A copy of the value now."""
        return np.array(np.from_dlpack(self.tensor.detach()))

    def put_back_memory(self) -> None:
        """Gives the tensor the memory that it had, with whatever value is in there."""
        if self._memory_of(self._tensor) != self._memory:
            import paddle

            self._tensor.data = paddle.from_dlpack(self.home)

    def bring_home(self) -> None:
        """Has the tensor be in its place again, in the memory that it had."""
        self._registry[self._key] = self._tensor
        self.put_back_memory()

    def put_back_gradient(self) -> None:
        """Has the tensor take gradients, or not, as it did, and have none."""
        tensor = self._tensor
        if tensor.stop_gradient != self._stop_gradient:
            tensor.stop_gradient = self._stop_gradient
        if tensor.grad is not None:
            # Not set to zero: an optimizer takes a gradient of zero for one.
            tensor.clear_gradient(False)
