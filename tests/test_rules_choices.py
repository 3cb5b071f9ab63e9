"""scheduler/rules/choices.py: pieces by name with arguments, one form of each choice, one line of each mistake."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import BadInput
from scheduler.rules.choices import MAX_LENGTH, Choice, Registry, parse_choice

SHAPES = Registry("--shape", "shape", short={"length_of_side": "side"})


@SHAPES.register("square")
@dataclass(frozen=True)
class Square:
    """Four sides of one length.

    And more.
    """

    length_of_side: float = 1.0
    colours: tuple[str, ...] = ()
    kind: Literal["near", "far"] = "near"

    def __post_init__(self):
        if self.length_of_side < 0:
            raise BadInput("the side must not be\nbelow 0")


@SHAPES.register("from-file", make="read")
class Drawn:
    """What a file holds."""

    def __init__(self, content):
        self.content = content

    @classmethod
    def read(cls, path: Path, *, times: int = 1, scale: float | None = None) -> "Drawn":
        return cls((path, times, scale))


def refused(written, call=SHAPES.parse):
    with pytest.raises(BadInput) as caught:
        call(written)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


# -- text --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        ("square", Choice("square")),
        (" one-percent ", Choice("one-percent")),
        ("square()", Choice("square")),
        ("square(1, side=-0.5)", Choice("square", (1,), (("side", -0.5),))),
        ("a(('x', 2), b=[None, True], c={'d': 1})", Choice("a", (["x", 2],), (("b", [None, True]), ("c", {"d": 1})))),
        ({"square": None}, Choice("square")),
        ({"square": {"side": 2}}, Choice("square", (), (("side", 2),))),
        ({"square": [1, "x"]}, Choice("square", (1, "x"))),
        ({"square": 3}, Choice("square", (3,))),
        (Choice("square", ((1, 2),)), Choice("square", ([1, 2],))),
    ],
)
def test_a_choice_is_read(written, choice):
    assert parse_choice("--shape", written) == choice


NOT_CHOICES = [
    "", "  ", "1a", "a b", "a.b", "a(", "a(1", "a)", "a(1))", "a(1)(2)", "a(1).b(2)", "a(1) if 1 else f(2)", "a(b)",
    "a(b=c)", "a(*[1])", "a(x for x in [1])", "a(__import__('os'))", "a(1+'2')", "a(f'{1}')", "a(\0)",
    "a(" + "(" * 1900, "a(" + "-" * 1900 + "1)",
    "a(" + "[" * 900 + "]" * 900 + ")", "a" * (MAX_LENGTH + 1), "ünder", "a, b", "(1)", "-",
    "a({[]: 1})", None, 3, 1.5, True, ["a"], {}, {"a": 1, "b": 2}, {1: 2}, {"a b": None},
]  # fmt: skip


@pytest.mark.parametrize("written", NOT_CHOICES, ids=lambda written: repr(written)[:20].replace("\0", "0"))
def test_what_is_no_choice_is_refused_in_one_line(written):
    said = refused(written, lambda text: parse_choice("--shape", text))
    assert said.startswith("--shape ")
    assert said.endswith(": write a name, with arguments if it takes some, as in 'name(1, mu=0.1)'")


@pytest.mark.parametrize(
    "written",
    ["a(1e999)", "a(x=[-1e999])", "a(1j)", "a(b'x')", "a({1})", "a(...)", "a('\\0')", "a('\\ud800')", "a(1 << 3)",
     f"a({1 << 64})", {"a": {"x": float("nan")}}, {"a": [object()]}, "a([[[[[[1]]]]]])", {"a": [1 << 20_000]}],
    ids=lambda written: str(written)[:20] if isinstance(written, str) else "mapping",
)  # fmt: skip
def test_arguments_are_plain_values(written):
    said = refused(written, lambda it: parse_choice("--shape", it))
    assert "is no plain value: a finite number, text, " in said or "write a name" in said


def test_python_does_not_warn_of_what_is_refused(recwarn):
    refused("a('\\d' 1or 2)")
    assert not recwarn.list


names = st.from_regex(r"[a-z_][a-z0-9_]{0,5}(-[a-z]{1,5})?", fullmatch=True)
words = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda word: not iskeyword(word))
# Text as a file or a terminal can hold it.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
simple = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | texts
plain = st.recursive(
    simple | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


@given(names, st.lists(plain, max_size=3), st.dictionaries(words, plain, max_size=3))
def test_a_choice_is_read_from_its_own_text(name, positional, named):
    given_ = Choice(name, tuple(positional), tuple(named.items()))
    try:
        choice = parse_choice("--x", given_)
    except BadInput as error:
        assert "no plain value" in str(error)  # noqa: PT017 - nested too deeply
        return
    text = str(choice)
    if len(text) <= MAX_LENGTH:
        assert parse_choice("--x", text) == choice
    assert parse_choice("--x", {name: named}) == Choice(name, (), choice.named)
    assert repr(parse_choice("--x", {name: positional})) == repr(Choice(name, choice.positional))


@given(st.text(max_size=60) | st.text("ab(),=[]{}'\"\\ 1.e-*#\n:", max_size=60))
def test_any_text_is_a_choice_or_refused(text):
    try:
        choice = parse_choice("--x", text)
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert parse_choice("--x", str(choice)) == choice


# -- one form ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    ["square(2, ['red'])", "square(side = 2.0, colours=('red',))", "square(colours='red', length_of_side=2)",
     {"square": {"colours": ["red"], "side": 2}}, {"square": [2, "red"]}],
    ids=str,
)  # fmt: skip
def test_equal_choices_have_one_text(written):
    choice = SHAPES.parse(written)
    assert str(choice) == "square(side=2.0, colours=['red'])"
    assert SHAPES.parse(str(choice)) == choice
    assert SHAPES.make(choice) == Square(2.0, ("red",))


sides = st.floats(0, 1e300) | st.integers(0, 2**63 - 1)


@given(sides, st.lists(texts, max_size=3), st.sampled_from(["near", "far"]))
def test_a_piece_is_the_same_from_all_that_it_may_be_written_as(side, colours, kind):
    ways = [
        Choice("square", (side, colours, kind)),
        {"square": {"kind": kind, "colours": colours, "length_of_side": side}},
        f"square(colours={tuple(colours)!r}, kind={kind!r}, side={side!r})",
    ]
    made = {str(SHAPES.parse(way)) for way in ways}
    assert len(made) == 1
    assert SHAPES.make(made.pop()) == Square(float(side), tuple(colours), kind)


def test_what_is_not_given_stays_open():
    assert str(SHAPES.parse("square()")) == "square"
    assert SHAPES.make("square") == Square()


def test_a_class_may_be_made_by_a_method_of_its_own():
    choice = SHAPES.parse("from-file('a/b.json', scale=2)")
    assert str(choice) == "from-file(path='a/b.json', scale=2.0)"
    assert SHAPES.make(choice).content == (Path("a/b.json"), 1, 2.0)
    assert "2 is too much: it is from-file(path, times=1, scale=None)" in refused("from-file('a', 2)")


# -- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("circle", "--shape 'circle': there is no shape 'circle'; there are square, from-file"),
        ("square(radius=1)", "square takes no argument 'radius'; it is square(side=1.0, colours=(), kind='near')"),
        ("square(**{'side': 1})", "square takes no argument '**'"),
        ("square(1, side=2)", "side is given twice"),
        ("square(side=1, side=2)", "side is given twice"),
        ("square(side=1, length_of_side=2)", "side is given twice"),
        ("square(1, 'a', 'far', 4)", "4 is too much"),
        ("square('x')", "--shape \"square('x')\": side is 'x'; it must be a number"),
        ("square(True)", "side is True; it must be a number"),
        ("square(colours=[1])", "colours is [1]; it must be a list, each text"),
        ("square(colours=1)", "colours is 1; it must be a list, each text"),
        ("square(kind='up')", "kind is 'up'; it must be 'near' or 'far'"),
        ("from-file(1)", "path is 1; it must be a path"),
        ("from-file('a', times=1.0)", "times is 1.0; it must be a whole number"),
        ("from-file('a', scale='x')", "scale is 'x'; it must be a number or None"),
        ({"square": {"colours": ["x" * 3000]}}, "longer than 2000 letters"),
    ],
)
def test_a_mistake_is_said_in_one_line_with_what_there_is(written, said):
    assert said in refused(written)


def test_what_a_class_refuses_is_said_with_the_choice():
    said = refused("square(-1)", SHAPES.make)
    assert said == "--shape 'square(side=-1.0)': the side must not be below 0"
    said = refused("from-file", SHAPES.make)
    assert said == "--shape 'from-file': path is missing: it is from-file(path, times=1, scale=None)"


# -- registration ----------------------------------------------------------------------


def test_the_table_has_how_each_is_written_and_its_first_line():
    assert SHAPES.table() == [
        ("square(side=1.0, colours=(), kind='near')", "Four sides of one length."),
        ("from-file(path, times=1, scale=None)", "What a file holds."),
    ]
    assert (list(SHAPES), len(SHAPES), SHAPES["square"], "circle" in SHAPES) == (
        ["square", "from-file"],
        2,
        Square,
        False,
    )


def test_a_name_belongs_to_one_class():
    things = Registry[Any]("--thing", "thing")

    def made(module):
        return type("Mine", (), {"__module__": module, "__qualname__": "Mine"})

    things.register("mine")(made("__main__"))
    again = things.register("mine")(made("__mp_main__"))
    assert things["mine"] is again
    things.register("mine")(made("task"))
    with pytest.raises(BadInput, match=r"the thing 'mine' is task.Mine already; give other.Mine another name"):
        things.register("mine")(made("other"))
    with pytest.raises(BadInput, match=r"is task.Mine already; give .*Square another name"):
        things.register("mine")(Square)


def test_a_class_that_cannot_be_made_is_refused_when_it_is_registered():
    class Half(ABC):
        @abstractmethod
        def sample(self): ...

    with pytest.raises(BadInput, match=r"the shape .half.: .*Half has no method of its own for sample"):
        SHAPES.register("half")(Half)
    assert "half" not in SHAPES


@pytest.mark.parametrize("name", [Square, "", "a b", "1a", "a(b)", "a--b", "ünder", "a.b"])
def test_a_name_can_be_written(name):
    with pytest.raises(BadInput, match="a shape cannot be called"):
        SHAPES.register(name)


def test_arguments_are_held_to_annotations_where_they_say_something():
    things = Registry[Any]("--thing", "thing")

    @things.register("loose")
    class Loose:
        def __init__(self, a, b: "NotThere" = 1, *rest, c: "float" = 1.0, d: Any = None, **more):  # noqa: F821
            self.all = (a, b, c, d)

    @things.register("pair")
    class Pair:
        def __init__(self, betas: tuple[float, float] = (0.9, 0.99), sizes: list[int] | None = None):
            self.all = (betas, sizes)

    assert things.make(things.parse("loose('x', [2], c=3, d={'e': 1})")).all == ("x", [2], 3.0, {"e": 1})
    assert things.make(things.parse("pair((1, 2), [3])")).all == ((1.0, 2.0), [3])
    assert things.describe("loose") == "loose(a, b=1, c=1.0, d=None)"
    for written, said in (
        ("loose(1, f=1)", "loose takes no argument 'f'"),
        ("loose(1, 2, 3)", "3 is too much"),
        ("loose(1, c='x')", "a number"),
        ("pair([1])", "betas is [1]; it must be a list of 2"),
        ("pair([1, 'x'])", "betas is [1, 'x']; it must be a list of a number and a number"),
        ("pair(sizes=[1.5])", "sizes is [1.5]; it must be a list, each a whole number or None"),
    ):
        assert said in refused(written, things.parse)


def test_a_base_class_of_another_module_has_annotations_too():
    @SHAPES.register("choice-like")
    @dataclass(frozen=True)
    class Sub(Choice):
        extra: int = field(default=0)

    try:
        assert "name is 1; it must be text" in refused("choice-like(1)")
    finally:
        SHAPES._kinds.pop("choice-like")
