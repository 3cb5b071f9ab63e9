"""Paddle's flags without its search for what is public, which each linear layer and convolution pays for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

# They look at a flag in each call; two of them keep the function under its own name.
_READERS = ("paddle", "paddle.nn.functional.conv", "paddle.nn.layer.conv")


def quicken_flags() -> None:
    """Has `paddle.get_flags` of this process remember which names are public; their values are read anew each time.

    Of a linear layer's call that is a fifth.
    """
    import paddle

    slow = paddle.get_flags
    if isinstance(slow, partial):
        return
    quick = partial(_get_flags, slow, sys.modules[slow.__module__]._global_flags, set())
    for name in _READERS:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "get_flags", None) is slow:
            vars(module)["get_flags"] = quick


def _get_flags(slow: Any, all_flags: Any, public: set[str], flags: str | Sequence[str]) -> dict[str, Any]:
    """As `paddle.get_flags`, which it asks for all that it has not seen."""
    if isinstance(flags, str) and flags in public:
        return {flags: all_flags()[flags]}
    values: dict[str, Any] = slow(flags)
    public.update(values)
    return values
