"""simulator/checkpoints/fingerprint.py, description.py: equal objects are equal in every process, others are not."""

import collections
import dataclasses
import datetime
import enum
import functools
import json
import os
import random
import re
import subprocess
import sys
import threading
import types
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT

from simulator.checkpoints.description import describe
from simulator.checkpoints.fingerprint import fingerprint


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Bag:
    """Any attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size


@dataclasses.dataclass(frozen=True)
class Schedule:
    warmup: int = 3
    note: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Tight:
    a: int
    b: object = None


class Quiet(Bag):
    """Says itself what its state is."""

    def __getstate__(self):
        return {"kept": self.kept}


class Remembers(Bag):
    @functools.cached_property
    def twice(self):
        return 2 * self.once


class Words(dict):
    pass


Pair = collections.namedtuple("Pair", "x y")


def power(exponent):
    return lambda x: x**exponent


def scaled(x, by=2, *, plus=0):
    return by * x + plus


def ring(length):
    """A list of lists that ends in itself."""
    first = last = []
    for _ in range(length - 1):
        last.append([])
        last = last[0]
    last.append(first)
    return first


# Each makes an object anew; all differ from each other.
MAKERS = {
    "none": lambda: None, "yes": lambda: True, "one": lambda: 1, "one point": lambda: 1.0, "text one": lambda: "1",
    "bytes": lambda: b"1", "minus zero": lambda: -0.0, "zero": lambda: 0.0, "nan": lambda: float("nan"),
    "huge": lambda: 10**6000, "huger": lambda: 10**6000 + 1, "surrogate": lambda: "\ud800", "empty": lambda: [],
    "list": lambda: [1, "2"], "other order": lambda: ["2", 1], "tuple": lambda: (1, "2"), "nested": lambda: [[1], "2"],
    "set": lambda: {"a", "b", "c"}, "frozen": lambda: frozenset("abc"), "other set": lambda: {"a", "b", "d"},
    "dict": lambda: {"a": 1, "b": {"c"}}, "other dict": lambda: {"a": 1, "b": {"d"}},
    "ordered": lambda: collections.OrderedDict(a=1, b=2), "reordered": lambda: collections.OrderedDict(b=2, a=1),
    "default": lambda: collections.defaultdict(list, a=[1]), "counter": lambda: collections.Counter("aab"),
    "deque": lambda: collections.deque([1, 2]), "short deque": lambda: collections.deque([1, 2], 2),
    "words": lambda: Words(a=1), "pair": lambda: Pair(1, 2), "proxy": lambda: types.MappingProxyType({"a": {"b"}}),
    "enum": lambda: Colour.RED, "other enum": lambda: Colour.BLUE, "path": lambda: Path("a/b"),
    "pure path": lambda: PurePosixPath("a/c"), "pattern": lambda: re.compile("a+"),
    "flags": lambda: re.compile("a+", 2),
    "date": lambda: datetime.date(2020, 1, 1), "range": lambda: range(3), "slice": lambda: slice(1, 2),
    "array": lambda: np.arange(6.0), "shape": lambda: np.arange(6.0).reshape(2, 3),
    "float32": lambda: np.arange(6, dtype="float32"), "scalar": lambda: np.float32(1), "dtype": lambda: np.dtype("f4"),
    "strided": lambda: np.arange(12.0)[::4], "objects": lambda: np.array([{"a"}, None], object),
    "fields": lambda: np.zeros(2, [("a", "i1"), ("b", "f8")]),
    "generator": lambda: np.random.default_rng(1), "other seed": lambda: np.random.default_rng(2),
    "philox": lambda: np.random.Generator(np.random.Philox(1)), "old": lambda: np.random.RandomState(1),
    "seeds": lambda: np.random.SeedSequence(1), "python's": lambda: random.Random(1),
    "bag": lambda: Bag(a=1), "other bag": lambda: Bag(a=2), "no bag": lambda: Bag(b=1), "slots": lambda: Slotted(3),
    "other slots": lambda: Slotted(4), "tight": lambda: Tight(1, {"a", "b"}), "data": lambda: Schedule(5),
    "square": lambda: power(2), "cube": lambda: power(3), "plain": lambda: lambda x: x, "next": lambda: lambda x: x + 1,
    "names": lambda: lambda x: x.a, "other names": lambda: lambda x: x.b, "in": lambda: lambda x: x in {"a", "b", "c"},
    "defaults": lambda: lambda x, y=1: x, "other defaults": lambda: lambda x, y=2: x, "function": lambda: scaled,
    "partial": lambda: functools.partial(scaled, by=3), "other partial": lambda: functools.partial(scaled, by=4),
    "method": lambda: Bag(a=1).__init__, "builtin": lambda: len, "bound": lambda: {"a": 1}.get,
    "ufunc": lambda: np.tanh,
    "class": lambda: Bag, "module": lambda: os, "ring of 1": lambda: ring(1), "ring of 2": lambda: ring(2),
}  # fmt: skip


def test_equal_objects_are_equal_and_different_ones_differ():
    made = {name: fingerprint(make()) for name, make in MAKERS.items()}
    assert made == {name: fingerprint(make()) for name, make in MAKERS.items()}
    assert len(set(made.values())) == len(MAKERS)


def elsewhere(code, *arguments):
    """What a process with other hashes and addresses says."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_checkpoints_fingerprint as t, json, sys\n{code}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "PYTHONHASHSEED": "12345"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_another_process_gives_the_same():
    code = "print(json.dumps({n: [t.fingerprint(m()), t.describe(m()).texts] for n, m in t.MAKERS.items()}))"
    here = {name: [fingerprint(make()), describe(make()).texts] for name, make in MAKERS.items()}
    assert elsewhere(code) == json.loads(json.dumps(here))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8),
    st.complex_numbers(),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=3).map(tuple), st.sets(SCALARS, max_size=5),
        st.frozensets(SCALARS, max_size=5), st.dictionaries(SCALARS, inner, max_size=4),
        st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=4).map(lambda d: Bag(**d)),
        st.tuples(st.integers(0, 9), inner).map(lambda pair: Tight(*pair)),
        st.integers(0, 9).map(np.random.default_rng), st.integers(0, 9).map(power),
        st.lists(st.floats(width=32), max_size=4).map(lambda values: np.array(values, "float32")),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_is_made_of_equal_parts_in_another_order_is_equal(data):
    """Sets and dicts keep the order they were filled in; it must not show."""
    items = data.draw(st.lists(st.tuples(SCALARS, VALUES), max_size=5, unique_by=lambda pair: pair[0]))
    order = data.draw(st.permutations(items))
    assert fingerprint(dict(items)) == fingerprint(dict(order))
    assert fingerprint({key for key, _ in items}) == fingerprint({key for key, _ in order})
    assert describe(Bag(d=dict(items))).texts == describe(Bag(d=dict(order))).texts


def drawn(seed, count=200):
    """Fingerprints and descriptions of values that are drawn from a seed.

    Not by hypothesis, whose draws follow the constants of the modules that a process has loaded.
    """
    rng = random.Random(seed)

    def scalar():
        text = "".join(rng.choices("aZ_ é€", k=rng.randrange(6)))
        return rng.choice([None, rng.random() < 0.5, rng.randrange(-1000, 1000), rng.random(), text, text.encode()])

    def value(depth):
        if depth == 0 or rng.random() < 0.3:
            return scalar()
        parts = [value(depth - 1) for _ in range(rng.randrange(4))]
        words = {"".join(rng.choices("abcdef", k=3)) for _ in range(rng.randrange(6))}
        several = [
            parts,
            tuple(parts),
            words,
            {word: scalar() for word in sorted(words)},
            Bag(it=parts),
            np.arange(len(parts)),
        ]
        return rng.choice(several)

    return [[fingerprint(it), describe(Bag(it=it)).texts] for it in (value(3) for _ in range(count))]


@pytest.mark.slow
def test_whatever_is_drawn_is_equal_in_another_process():
    here = json.loads(json.dumps(drawn(1)))
    assert len(here) > 100
    assert elsewhere("print(json.dumps(t.drawn(1)))") == here


# -- what counts -------------------------------------------------------------------


def test_a_generator_counts_by_its_state_and_its_children():
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    other.random()
    assert fingerprint(one) != fingerprint(other)
    one.random()
    assert fingerprint(one) == fingerprint(other)
    if hasattr(one, "spawn"):
        one.spawn(1)
        assert fingerprint(one) != fingerprint(other)


def test_what_is_no_part_of_an_object_does_not_count():
    assert fingerprint(Schedule(3, "here")) == fingerprint(Schedule(3, "there"))
    assert fingerprint(Quiet(kept=1, lock=1)) == fingerprint(Quiet(kept=1, lock=2))
    assert fingerprint(Quiet(kept=1)) != fingerprint(Quiet(kept=2))
    asked = Remembers(once=1)
    assert asked.twice == 2
    assert fingerprint(asked) == fingerprint(Remembers(once=1))


def test_the_code_of_a_class_does_not_count_and_that_of_a_function_does():
    def classes(result):
        return type("Reader", (), {"read": lambda self: result, "__qualname__": "Reader"})

    assert fingerprint(classes(1)()) == fingerprint(classes(2)())
    assert fingerprint(lambda: 1) != fingerprint(lambda: 2)
    # Where it stands makes no difference.
    assert fingerprint(eval("lambda x: x * 2")) == fingerprint(eval("\n\n(lambda x: x * 2)"))


def test_shared_parts_cost_their_size_and_no_more():
    shared = []
    for _ in range(200):
        shared = [shared, shared]
    deep = describe(Bag(it=shared))
    assert deep.vague == ("it[0][0][0]",)  # deeper than anybody writes: known by its class
    assert len(describe([[[[j] for j in range(40)] for _ in range(40)] for _ in range(40)]).texts) < 400
    wide = [[i] for i in range(5)] * 10_000
    assert fingerprint(wide) == fingerprint([[i] for _ in range(10_000) for i in range(5)])


# -- words -------------------------------------------------------------------------


def test_an_object_is_told_in_words():
    piece = Bag(
        mu=0.1, of=Schedule(5), sizes=[1, 2], names={"b", "a"}, parts=[Schedule(1), None], table=np.zeros((2, 3)),
        colour=Colour.RED, where=Path("x"), f=power(2), kind=Bag, text="x" * 100,
    )  # fmt: skip
    piece.me = piece
    texts = dict(describe(piece).texts)
    for name, begin in {
        "table": "float64[2, 3] ", "f": "power.<locals>.<lambda> ", "text": "str of 100 ", "me": "Bag ",
    }.items():  # fmt: skip
        assert re.fullmatch(re.escape(begin) + "[0-9a-f]{16}", texts.pop(name))
    assert texts == {
        "": "Bag", "mu": "0.1", "of": "Schedule", "of.warmup": "5", "sizes": "[1, 2]", "names": "{'a', 'b'}",
        "parts": "list", "parts[0]": "Schedule", "parts[0].warmup": "1", "parts[1]": "None", "colour": "Colour.RED",
        "where": "Path('x')", "kind": "Bag",
    }  # fmt: skip


def test_what_tells_nothing_of_itself_is_named():
    told = describe(Bag(mu=1, lock=threading.Lock(), of=Bag(file=sys.__stdout__)))
    assert told.vague == ("lock", "of.file")
    assert told.texts == describe(Bag(mu=1, lock=threading.Lock(), of=Bag(file=sys.__stderr__))).texts


def test_attributes_can_be_left_out():
    assert describe(Bag(lr=1, mu=2), leave_out=["lr"]).texts == {"": "Bag", "mu": "2"}
