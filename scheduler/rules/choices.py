"""Pieces of a run that are chosen by name with arguments: `fedadam(lr=0.01, beta2=0.99)`, `uniform(10)`.

A registry holds the classes of one kind under their names.  The same text stands on the
command line, in YAML and in a record; YAML may also write it as a mapping,
`{fedadam: {lr: 0.01}}`.
"""

from __future__ import annotations

import ast
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Generic, TypeVar

from protos.errors import BadInput
from scheduler.rules.annotations import Unfit, annotation_of, fitted

Piece = TypeVar("Piece")
Kind = TypeVar("Kind", bound=type)

# Of a choice's text: nobody writes more, and Python's parser is bounded by it.
MAX_LENGTH = 2_000
_LETTERS = 80
_DEEPEST = 5
# A shard imports the main script under another name than the rank that started it.
_MAIN = frozenset(["__main__", "__mp_main__"])
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Choice:
    """A name with its arguments, as they were written.

    Attributes:
        name: of the piece.
        positional: arguments without a name, plain values.
        named: arguments with one.
    """

    name: str
    positional: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """The text it can be written as."""
        arguments = [*map(repr, self.positional), *(f"{name}={value!r}" for name, value in self.named)]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name


class Registry(Mapping[str, type[Piece]], Generic[Piece]):
    """The classes of one kind of piece, by name.

    Args:
        setting: the setting that chooses among them, for messages, such as "--sampler".
        what: what they are, in a word or two.
        short: argument -> how it is written for short, where a class has it.
    """

    def __init__(self, setting: str, what: str, short: Mapping[str, str] | None = None) -> None:
        self.setting, self.what = setting, what
        self._short = dict(short or {})
        self._kinds: dict[str, type[Piece]] = {}
        self._makers: dict[str, str] = {}

    def register(self, name: str, make: str = "") -> Callable[[Kind], Kind]:
        """A decorator that puts a class under a name.

        The arguments of a choice are those that the class names; their annotations are held to.

        Args:
            name: letters, digits, _ and -.
            make: the class method that makes it from a choice's arguments, if it is not the class itself.

        Raises:
            BadInput: the name cannot be one, another class has it, or the class lacks a method.
        """
        if not isinstance(name, str) or not _is_name(name):
            raise BadInput(f"a {self.what} cannot be called {name!r}: letters, digits, _ and - only, no digit first")

        def take(kind: Kind) -> Kind:
            given: Any = kind
            there: Any = self._kinds.get(name)
            # The same class again, from a cell of a notebook or in a process that imports the main script.
            again = there is not None and there.__qualname__ == kind.__qualname__
            if there is not None and not (again and (there.__module__ == kind.__module__ or _of_main(there, kind))):
                raise BadInput(
                    f"the {self.what} {name!r} is {there.__module__}.{there.__qualname__} already; "
                    f"give {kind.__module__}.{kind.__qualname__} another name"
                )
            if inspect.isabstract(given):
                lacks = ", ".join(sorted(given.__abstractmethods__))
                raise BadInput(f"the {self.what} {name!r}: {kind.__qualname__} has no method of its own for {lacks}")
            self._kinds[name], self._makers[name] = kind, make
            return kind

        return take

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, name: str) -> type[Piece]:
        return self._kinds[name]

    def parse(self, written: Any) -> Choice:
        """A choice in its one form: all arguments by name, in their order, of the types they must have.

        So equal choices are equal, however they were written; what is not given stays open.

        Args:
            written: text, mapping or `Choice`, see `parse_choice`.

        Raises:
            BadInput: no choice, an unknown name or argument, or a value of the wrong type.
        """
        choice = parse_choice(self.setting, written)
        if choice.name not in self:
            known = ", ".join(self) or "none yet"
            raise _refusal(self.setting, written, f"there is no {self.what} {choice.name!r}; there are {known}")
        given = self._by_name(choice, written)
        named = []
        for name, parameter in self.arguments(choice.name).items():
            if name in given:
                named.append((name, _plain(self._fitted(written, choice.name, parameter, name, given[name]))))
        made = Choice(choice.name, (), tuple(named))
        if len(str(made)) > MAX_LENGTH:
            raise _refusal(self.setting, written, f"longer than {MAX_LENGTH} letters")
        return made

    def make(self, written: Any) -> Piece:
        """The piece that was chosen.

        Args:
            written: as in `parse`.

        Raises:
            BadInput: as `parse`; or an argument is missing, or the class refuses one.
        """
        choice = self.parse(written)
        given, call = dict(choice.named), {}
        for name, parameter in self.arguments(choice.name).items():
            if name in given:
                call[parameter.name] = self._fitted(choice, choice.name, parameter, name, given[name])
            elif parameter.default is inspect.Parameter.empty:
                raise _refusal(self.setting, choice, f"{name} is missing: it is {self.describe(choice.name)}")
        try:
            made: Piece = self._maker(choice.name)(**call)
        except (BadInput, ValueError) as error:
            if str(error).startswith("--"):
                raise  # it names the setting itself, as --plan
            raise _refusal(self.setting, choice, " ".join(str(error).split())) from error
        return made

    def arguments(self, name: str) -> dict[str, inspect.Parameter]:
        """What a piece takes, as it is written -> as the class has it."""
        takes = inspect.signature(self._maker(name)).parameters
        by_name = {own: parameter for own, parameter in takes.items() if parameter.kind in _BY_NAME}
        return {
            self._short[own] if own in self._short and self._short[own] not in takes else own: parameter
            for own, parameter in by_name.items()
        }

    def describe(self, name: str) -> str:
        """How a piece is written, with its defaults: `fedadam(lr=0.01, beta1=0.9)`."""
        parts = []
        for argument, parameter in self.arguments(name).items():
            empty = parameter.default is inspect.Parameter.empty
            parts.append(argument if empty else f"{argument}={parameter.default!r}")
        return f"{name}({', '.join(parts)})" if parts else name

    def table(self) -> list[tuple[str, str]]:
        """(how it is written, the first line of what it is) of each, in the order of registration."""
        docs = {name: inspect.cleandoc(vars(kind).get("__doc__") or "") for name, kind in self.items()}
        return [(self.describe(name), doc.partition("\n")[0]) for name, doc in docs.items()]

    def _maker(self, name: str) -> Callable[..., Any]:
        kind = self._kinds[name]
        maker: Callable[..., Any] = getattr(kind, self._makers[name]) if self._makers[name] else kind
        return maker

    def _by_name(self, choice: Choice, written: Any) -> dict[str, Any]:
        arguments = self.arguments(choice.name)
        in_order = [name for name, parameter in arguments.items() if parameter.kind is not parameter.KEYWORD_ONLY]
        if len(choice.positional) > len(in_order):
            said = f"{_shown(choice.positional[len(in_order)])} is too much: it is {self.describe(choice.name)}"
            raise _refusal(self.setting, written, said)
        given = dict(zip(in_order, choice.positional, strict=False))
        full = {parameter.name: name for name, parameter in arguments.items()}
        for name, value in choice.named:
            name = name if name in arguments else full.get(name, name)
            if name in given:
                raise _refusal(self.setting, written, f"{name} is given twice")
            if name not in arguments:
                said = f"{choice.name} takes no argument {name!r}; it is {self.describe(choice.name)}"
                raise _refusal(self.setting, written, said)
            given[name] = value
        return given

    def _fitted(self, written: Any, name: str, parameter: inspect.Parameter, argument: str, value: Any) -> Any:
        try:
            return fitted(value, annotation_of(self._kinds[name], parameter))
        except Unfit as error:
            raise _refusal(self.setting, written, f"{argument} is {_shown(value)}; it must be {error}") from error


def parse_choice(setting: str, written: Any) -> Choice:
    """A choice from its text, or from YAML's mapping.

    Args:
        setting: for messages.
        written: "name", "name(1, mu=0.1)", {"name": {"mu": 0.1}} or {"name": [1]}.

    Raises:
        BadInput: it is none of these, or an argument is no plain value.
    """
    if isinstance(written, Choice):
        choice = written
    elif isinstance(written, Mapping):
        choice = _from_mapping(setting, written)
    else:
        choice = _from_text(setting, written)
    if not _is_name(choice.name):
        raise _not_a_choice(setting, written)
    try:
        positional = tuple(_plain(value) for value in choice.positional)
        return Choice(choice.name, positional, tuple((name, _plain(value)) for name, value in choice.named))
    except ValueError as error:
        raise _refusal(setting, written, str(error)) from error


def _from_text(setting: str, written: Any) -> Choice:
    if not isinstance(written, str) or len(written) > MAX_LENGTH:
        raise _not_a_choice(setting, written)
    name, bracket, rest = written.strip().partition("(")
    if not bracket:
        return Choice(name)
    try:
        with warnings.catch_warnings():
            # Of Python's parser, on what is refused in a line anyway.
            warnings.simplefilter("ignore")
            call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise _not_a_choice(setting, written)
        positional = tuple(ast.literal_eval(argument) for argument in call.args)
        named = tuple((str(keyword.arg or "**"), ast.literal_eval(keyword.value)) for keyword in call.keywords)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _not_a_choice(setting, written) from error
    return Choice(name.strip(), positional, named)


def _from_mapping(setting: str, written: Mapping[Any, Any]) -> Choice:
    if len(written) != 1:
        raise _not_a_choice(setting, written)
    ((name, arguments),) = written.items()
    if arguments is None:
        return Choice(str(name))
    if isinstance(arguments, Mapping):
        return Choice(str(name), (), tuple((str(key).replace("-", "_"), value) for key, value in arguments.items()))
    return Choice(str(name), tuple(arguments) if isinstance(arguments, list | tuple) else (arguments,))


def _refusal(setting: str, written: Any, reason: str) -> BadInput:
    return BadInput(f"{setting} {_shown(str(written) if isinstance(written, Choice) else written)}: {reason}")


def _not_a_choice(setting: str, written: Any) -> BadInput:
    return _refusal(setting, written, "write a name, with arguments if it takes some, as in 'name(1, mu=0.1)'")


def _is_name(text: str) -> bool:
    return text.isascii() and all(part.isidentifier() for part in text.split("-"))


def _of_main(one: type, other: type) -> bool:
    return one.__module__ in _MAIN or other.__module__ in _MAIN


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as it can be written and read again: tuples are lists, paths are text.

    Raises:
        ValueError: it cannot be written so.
    """
    if depth < _DEEPEST:
        if isinstance(value, PurePath):
            return _plain(str(value), depth)
        if isinstance(value, list | tuple):
            return [_plain(each, depth + 1) for each in value]
        if isinstance(value, Mapping):
            return {_plain(key, depth + 1): _plain(each, depth + 1) for key, each in value.items()}
    kind = type(value)
    text_can_be = kind is str and "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    number_can_be = (kind is float and math.isfinite(value)) or (kind is int and value.bit_length() < 64)
    if value is None or kind is bool or text_can_be or number_can_be:
        return value
    raise ValueError(f"{_shown(value)} is no plain value: a finite number, text, True, False, None, or a list of such")


def _shown(value: Any) -> str:
    """A value as Python writes it, if that is not long."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."
