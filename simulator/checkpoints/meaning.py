"""What the results of a run depend on, so that it is resumed as the run it was."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from protos.errors import BadInput
from scheduler.state.rounds import Rules
from simulator.checkpoints.description import describe
from simulator.checkpoints.fingerprint import fingerprint
from simulator.settings import Settings
from simulator.settings_fields import flag_of

_PIECES = ("reader", "trainer", "sampler", "test sampler", "server optimizer", "server schedule", "algorithm")
# Of the settings, the one that a resumed run may have another value of, within bounds.
_ROUNDS = "--rounds"


def meaning_of(settings: Settings, reader: Any, trainer: Any, rules: Rules) -> tuple[dict[str, Any], list[str]]:
    """All of it that every rank knows, as plain values.

    Args:
        settings: of the run.
        reader: of the page.
        trainer: of the page; what it takes from the settings is told there.
        rules: with the samplers and the optimizer that the page has set.

    Returns:
        "--flag" -> value, name of a piece -> its description; and what of the pieces is known by its class alone.
    """
    meaning: dict[str, Any] = {flag_of(name): _plain(value) for name, value in settings.meaning().items()}
    of_server = (rules.sampler, rules.test_sampler, rules.optimizer, rules.schedule, rules.algorithm)
    pieces = dict(zip(_PIECES, (reader, trainer, *of_server), strict=True))
    if rules.schedule is None:
        del pieces["server schedule"]
    pieces |= {f"filter {number}": each for number, each in enumerate(rules.filters, 1)}
    vague = []
    for what, piece in pieces.items():
        told = describe(piece, leave_out=getattr(piece, "takes", ()), elsewhere=(Settings,))
        meaning[what] = dict(told.texts)
        holds = any(value is settings for value in getattr(piece, "__dict__", {}).values())
        if holds or "rounds" in getattr(piece, "takes", ()):
            # Such as a learning rate that falls from the first round to the last.
            meaning[f"{_ROUNDS}, which the {what} reads,"] = settings.rounds
        vague += [f"{what} {told.texts['']}: {path or 'all of it'}" for path in told.vague]
    return meaning, vague


def pieces_of(meaning: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The descriptions of the pieces, for a person to read."""
    pieces = {name: texts for name, texts in meaning.items() if name in _PIECES or name.startswith("filter ")}
    return {name: {path or "class": text for path, text in texts.items()} for name, texts in pieces.items()}


def with_files(meaning: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The same with the content of `--init`, where this rank sees the file."""
    if settings.init is None:
        return dict(meaning)
    try:
        content = settings.init.read_bytes()
    except OSError:
        return {**meaning, "the content of --init": "not seen by rank 0"}
    return {**meaning, "the content of --init": hashlib.blake2b(content, digest_size=8).hexdigest()}


def check_meaning(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """Refuses to go on as another run.

    The rounds of a day may become more, or fewer, while the run is at its first day: what has been done is how a
    run with that many rounds begins.

    Args:
        before: of the checkpoint.
        now: of this run.
        step: rounds of the run that are done.

    Raises:
        BadInput: names everything that differs.
    """
    differences = list(_differences(before, now))
    each = "; ".join(f"{name} was {was}, is {has}" for name, was, has in differences if name != _ROUNDS)
    if each:
        raise BadInput(f"--resume: the run cannot go on with other settings: {each}")
    for _, was, rounds in differences:
        if step > int(was):
            raise BadInput(
                f"--resume: {_ROUNDS} was {was}, is {rounds}: {step} rounds are done, so the first day is over, and "
                "the days after it went on from there; leave --rounds out, or start a new run with --init"
            )
        if int(rounds) < step:
            raise BadInput(f"--resume: {_ROUNDS} {rounds}: {step} rounds are done; give {step} or more")


def differing(rank: int, mine: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    """What a rank was told otherwise than rank 0, in one line; None if nothing."""
    each = "; ".join(f"{name} is {here} here and {there} there" for name, there, here in _differences(first, mine))
    if not each:
        return None
    return f"rank {rank} has other settings than rank 0: {each}; give all ranks the same command line and files"


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name and both values of all that differs; of pieces of one class, the attributes that do."""
    for name in {**one, **other}:
        first, second = one.get(name), other.get(name)
        if first == second:
            continue
        if not isinstance(first, dict) or not isinstance(second, dict):
            yield name, _shown(first), _shown(second)
        elif first.get("") != second.get(""):
            yield f"the {name}", _shown(first.get("")), _shown(second.get(""))
        else:
            for path in {**first, **second}:
                if first.get(path) != second.get(path):
                    yield f"{name} {first['']}: {path}", _shown(first.get(path)), _shown(second.get(path))


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _plain(value: Any) -> Any:
    """A setting's value as JSON holds it, equal in all processes; what JSON does not know is described."""
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return [_plain(each) for each in sorted(value, key=fingerprint)]
    if isinstance(value, dict):
        return {str(key): _plain(value[key]) for key in sorted(value, key=fingerprint)}
    texts = describe(value).texts
    return texts[""] if len(texts) == 1 else dict(texts)
