"""Fields of settings: what a subclass's inherit, and which of an object's were read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

_LETTERS = 80
# The type of a problem whose message is whole.
CHOICE = "choice"


class Uses(set[str]):
    """Names of settings that something has read; equal settings are equal whoever has read them."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Uses)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


def flag_of(name: str) -> str:
    """A setting's name on the command line."""
    return f"--{name.replace('_', '-')}"


def shortened(value: Any) -> str:
    """A value as Python writes it, if that is not long."""
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."


def adapter(field: FieldInfo) -> TypeAdapter[Any]:
    """What checks a field's values."""
    checks: Any = (field.annotation, *field.metadata, Field())
    return TypeAdapter(Annotated[checks])


def inherit(kind: type[BaseModel]) -> None:
    """Holds fields that a class declares anew to the checks of the class above, whatever type it gives them."""
    above: Any = kind.__mro__[1]
    redeclared = [name for name in inspect.get_annotations(kind) if name in getattr(above, "model_fields", {})]
    for name in redeclared:
        field, parent = kind.model_fields[name], above.model_fields[name]
        # What a value may be written as stays the same, too.
        befores = [each for each in parent.metadata if isinstance(each, BeforeValidator)]
        field.metadata = [*befores, *field.metadata, AfterValidator(_check_of(parent))]
        field.description = field.description or parent.description
    if redeclared:
        kind.model_rebuild(force=True)


def describe_problem(problem: Any, kind: type[BaseModel]) -> str:
    """One line on what pydantic has found in a value: the setting, the value and what is wrong with it."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    flag = "DATA" if name == "data" else flag_of(name)
    if problem["type"] == "missing":
        return f"{flag} is missing" + (" (the data folder)" if name == "data" else "")
    given, field = problem["input"], kind.model_fields.get(name)
    value = "" if isinstance(given, dict) else f" {shortened(given)}"
    # A default is the very object that the class holds.
    mine = f" (the default that {kind.__name__} gives)" if field is not None and given is field.default else ""
    if problem["type"] == CHOICE:
        return f"{problem['msg']}{mine}"
    return f"{flag}{value}{mine}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _check_of(parent: FieldInfo) -> Callable[[Any], Any]:
    checks = adapter(parent)

    def check(value: Any) -> Any:
        try:
            made = checks.validate_python(value)
        except ValidationError as error:
            raise PydanticCustomError("inherited", "{text}", {"text": error.errors()[0]["msg"]}) from error
        # The same value in a narrower type is as good; another, such as 40 for "40", is what the core needs.
        return value if made == value else made

    return check
