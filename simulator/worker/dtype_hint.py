"""What to say when a model that is float32 meets examples that are float64, as NumPy makes them by default."""

from __future__ import annotations

from collections.abc import Mapping

from protos.codec import TensorSpec
from protos.errors import BadInput
from simulator.contracts import Examples

_TOLD = 160


def explain_float64(
    error: Exception, uid: str, examples: Examples, specs: Mapping[str, TensorSpec], reader: str
) -> BadInput | None:
    """One line for an error of Paddle about dtypes, if float64 examples can be the reason; None if not.

    Args:
        error: raised in a user's turn.
        uid: the user.
        examples: its examples.
        specs: of the model's parameters.
        reader: name of the reader's class.
    """
    wide = [name for name, rows in examples.items() if rows.dtype == "float64"]
    floats = {spec.dtype for spec in specs.values()}
    said = " ".join(str(error).split())
    if not wide or floats != {"float32"} or "float64" not in said or isinstance(error, BadInput):
        return None
    which = f"array {wide[0]!r} is" if len(wide) == 1 else f"arrays {', '.join(map(repr, wide))} are"
    return BadInput(
        f"uid {uid!r}: its {which} float64 and the model is float32, which Paddle does not put together "
        f'({said[:_TOLD]}); let {reader}.read yield {wide[0]}.astype("float32")'
    )
