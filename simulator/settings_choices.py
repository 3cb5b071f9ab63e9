"""Settings that choose a piece by name with arguments: their one form, their old spellings, their part of --help."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic_core import PydanticCustomError

from protos.errors import BadInput
from scheduler.rules.choices import Choice, Registry
from scheduler.rules.registries import REGISTRIES
from simulator.settings_fields import CHOICE, flag_of, shortened

# Settings that give an argument of a piece a value: setting of the piece -> argument -> setting.
SPELLED: Mapping[str, Mapping[str, str]] = {
    "sampler": {"sample_num": "sample_num", "min_ins_num": "min_ins_num", "percent": "hash_percent", "plan": "plan"},
    "server_optimizer": {"lr": "server_lr"},
}
# Of these a run has several, in order.
_SEVERAL = ("filter",)


def chosen_from(registry: Registry[Any]) -> BeforeValidator:
    """Holds a field to what is registered when settings are parsed; its value is the choice's one form, as text."""
    return BeforeValidator(lambda written: _form(registry, written))


def several_from(registry: Registry[Any]) -> BeforeValidator:
    """The same for a list of choices, or a single one."""

    def forms(written: Any) -> tuple[str, ...]:
        single = written is None or isinstance(written, str | Mapping)
        if not single and not isinstance(written, list | tuple):
            raise PydanticCustomError(CHOICE, "{text}", {"text": f"{registry.setting} {shortened(written)}: no list"})
        each = [written] if single and written else written
        return tuple(_form(registry, one) for one in each or ())

    return BeforeValidator(forms)


def _form(registry: Registry[Any], written: Any) -> str:
    try:
        return str(registry.parse(written))
    except BadInput as error:
        raise PydanticCustomError(CHOICE, "{text}", {"text": str(error)}) from error


def make_chosen(settings: Any, name: str) -> Any:
    """The piece that a setting of one choice names.

    Its arguments are those of the choice; else those of the settings in `SPELLED`; else those that
    the page gives by default, in one way or the other; else the piece's own.

    Args:
        settings: a `Settings`.
        name: of the setting.

    Raises:
        BadInput: an argument is given in both ways or not at all, or the piece refuses it.
    """
    registry, kind = REGISTRIES[name], type(settings)
    choice = registry.parse(getattr(settings, name))
    takes, changed = registry.arguments(choice.name), settings.is_changed(name)
    given = dict(choice.named) if changed else {}
    page = _of_default(kind, name, choice.name)
    for argument, spelled in SPELLED.get(name, {}).items():
        if argument not in takes:
            continue
        value = getattr(settings, spelled)
        if settings.is_changed(spelled):
            if argument in given:
                both = f"{flag_of(spelled)} {value} and {flag_of(name)} {str(choice)!r}"
                raise BadInput(f"{both} both give {argument}: leave one out")
            given[argument] = value
        elif _is_new_default(kind, spelled) and not (argument in page and _later(kind, name, spelled)):
            page[argument] = value
        elif value is not None and takes[argument].default is takes[argument].empty:
            page.setdefault(argument, value)
        elif value is None and argument not in page | given and takes[argument].default is takes[argument].empty:
            kind_of_value = "FILE" if spelled == "plan" else "NUMBER"
            raise BadInput(f"{flag_of(name)} {choice.name} needs {flag_of(spelled)} {kind_of_value}")
    return with_settings(registry.make(Choice(choice.name, (), tuple((page | given).items()))), settings)


def _of_default(kind: type[BaseModel], name: str, piece: str) -> dict[str, Any]:
    """What the page's default for a setting says of a piece."""
    try:
        default = REGISTRIES[name].parse(kind.model_fields[name].get_default(call_default_factory=True))
    except BadInput:
        return {}  # not chosen, or it would have been refused
    return dict(default.named) if default.name == piece else {}


def _is_new_default(kind: type[BaseModel], name: str) -> bool:
    """Whether a page has given a setting another default than the class that brought it."""
    first: Any = next(each for each in reversed(kind.__mro__) if name in getattr(each, "model_fields", {}))
    return bool(kind.model_fields[name].default != first.model_fields[name].default)


def _later(kind: type[BaseModel], name: str, other: str) -> bool:
    """Whether the default of one setting was given by the same class as that of another, or by a subclass of it."""
    owner, others = (
        next(place for place, each in enumerate(kind.__mro__) if field in inspect.get_annotations(each))
        for field in (name, other)
    )
    return owner <= others


def make_several(settings: Any, name: str) -> tuple[Any, ...]:
    """The pieces that a setting of several choices names, in order; raises as `make_chosen`."""
    registry = REGISTRIES[name]
    return tuple(with_settings(registry.make(each), settings) for each in getattr(settings, name))


def with_settings(piece: Any, settings: Any) -> Any:
    """A piece, made by the page or from a choice, with the settings that it asks for by a method `with_settings`.

    A piece without it may name those that it reads later in an attribute `takes`; one
    that holds the settings themselves may read any.

    Raises:
        BadInput: the piece was given another value than the settings have.
    """
    holds = any(value is settings for value in getattr(piece, "__dict__", {}).values())
    for taken in type(settings).model_fields if holds else getattr(piece, "takes", ()):
        getattr(settings, taken, None)
    try:
        return piece.with_settings(settings) if hasattr(piece, "with_settings") else piece
    except ValueError as error:
        raise BadInput(str(error)) from error


def without_overruled(below: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of a file, without arguments of pieces that the command line gives in their other spelling.

    Args:
        below: setting -> value in the file.
        arguments: the command line, which wins.
    """
    left, line = dict(below), _given(arguments)
    for name, spelled in SPELLED.items():
        flag, registry = flag_of(name), REGISTRIES[name]
        if flag not in line and name not in left:
            continue
        try:
            choice = registry.parse(line.get(flag, left.get(name)))
        except BadInput:
            continue  # it is said later, with all other mistakes
        for argument, other in spelled.items():
            if flag in line and argument in dict(choice.named):
                left.pop(other, None)
            elif flag not in line and flag_of(other) in line:
                choice = Choice(choice.name, (), tuple(pair for pair in choice.named if pair[0] != argument))
                left[name] = str(choice)
    return left


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """Flag -> value of a command line; the last counts."""
    parted = [each.partition("=") for each in arguments]
    return {**dict(pairwise(arguments)), **{flag: value for flag, equals, value in parted if equals}}


def take_lists(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Takes lists of choices out of a command line, of which a comma would part the values.

    Returns:
        What is left; and setting -> its values, in order.
    """
    names, left, taken = {flag_of(name): name for name in _SEVERAL}, list[str](), dict[str, list[str]]()
    waiting = ""
    for each in arguments:
        flag, equals, value = each.partition("=")
        if waiting:
            taken.setdefault(names[waiting], []).append(each)
            waiting = ""
        elif flag in names and equals:
            taken.setdefault(names[flag], []).append(value)
        elif each in names:
            waiting = each
        else:
            left.append(each)
    # A flag without a value is left to be refused.
    return [*left, waiting] if waiting else left, taken


def choices_help() -> str:
    """What can be chosen by name, for a person at a terminal."""
    lines = ["", "chosen by name, with arguments that need not be given:"]
    for registry in REGISTRIES.values():
        lines += ["", f"  {registry.setting}"]
        lines += [f"    {written}\n        {what}" for written, what in registry.table()] or ["    (none yet)"]
    return "\n".join(lines) + "\n"


def choices_tables() -> str:
    """The same as Markdown."""
    parts = []
    for registry in REGISTRIES.values():
        head = [f"| `{registry.setting}` | what |", "| --- | --- |"]
        rows = [f"| `{written}` | {what} |" for written, what in registry.table()] or ["| | none yet |"]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"
