"""Clipping: no user moves the model by more than a bound."""

from dataclasses import dataclass

from scheduler import Filter, Local, check_number, register_filter


@register_filter("clip")
@dataclass(frozen=True)
class Clip(Filter):
    """No update is longer than a norm.

    An update d becomes d min(1, norm / |d|), with |d| over all parameters.

    Args:
        norm: above 0.
    """

    norm: float

    def __post_init__(self) -> None:
        check_number("norm", self.norm, above=0.0)

    def on_user(self, local: Local) -> None:
        """Scales it."""
        norm = local.update.norm()
        # Not `norm > self.norm`: NaN must be found.
        if not norm <= self.norm:
            local.update.scale(self.norm / norm)
