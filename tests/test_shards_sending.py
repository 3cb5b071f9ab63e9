"""What cannot be sent to the shards, or not be imported there, is named in one line."""

import subprocess
import sys
import threading

import pytest
from running import environment, run
from test_docs import programs
from tiny_task import TinyReader, TinyTrainer, make_data

from protos.errors import BadInput
from simulator.shards.sending import check_sendable


class Bag:
    """Any attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("not\nme")


def local():
    class Local(TinyTrainer):
        pass

    return Local


TOP = "give it a function that is defined with def at the top of a file, or write it as a method"
CANNOT = {
    "a lambda": (
        Bag(loss=lambda x: x),
        f"trainer Bag: its attribute loss (a lambda) cannot be sent to the shards: {TOP}",
    ),
    "deep within": (
        Bag(a=Bag(b={"c": [1, lambda x: x]})),
        f"trainer Bag: its attribute a.b['c'][1] (a lambda) cannot be sent to the shards: {TOP}",
    ),
    "a function within one": (Bag(f=local), None),
    "a lock": (
        Bag(lock=threading.Lock()),
        "trainer Bag: its attribute lock (of type lock) cannot be sent to the shards: cannot pickle '_thread.lock' "
        "object; make it in the method that uses it",
    ),
    "a local class": (
        local()(),
        "trainer local.<locals>.Local cannot be sent to the shards: class Local is defined inside of a function; "
        "define it at the top of a file",
    ),
    "an object of one": (
        Bag(inner=local()()),
        "trainer Bag: its attribute inner (of type local.<locals>.Local) cannot be sent to the shards: class Local is "
        "defined inside of a function; define it at the top of a file",
    ),
    "what refuses": (
        Bag(own=Stubborn()),
        "trainer Bag: its attribute own (of type Stubborn) cannot be sent to the shards: not me; make it in the method "
        "that uses it",
    ),
}


@pytest.mark.parametrize(("piece", "said"), CANNOT.values(), ids=list(CANNOT))
def test_what_cannot_be_sent_is_named(piece, said):
    if said is None:
        check_sendable("trainer", piece)
        return
    with pytest.raises(BadInput) as caught:
        check_sendable("trainer", piece)
    assert str(caught.value) == said


def test_plain_pieces_can_be_sent():
    check_sendable("reader", TinyReader())
    check_sendable("trainer", TinyTrainer(lr=0.1))


# -- the page as shards import it ------------------------------------------------------

PAGE = programs()["my_task.py"]
GUARD = 'if __name__ == "__main__":\n'
PAGES = {
    "no guard": (PAGE.replace(GUARD, "if True:\n"), 1,
        "rank 0: page.py starts a run when it is imported, and each worker process imports it: put what starts the run "
        'into a function, such as main(), and end page.py with the two lines  if __name__ == "__main__":  and  main()'),
    "a class behind the guard": (PAGE.replace(GUARD, GUARD + "    class ActivityReader(ActivityReader):\n"
        "        pass\n\n    ActivityReader.__qualname__ = 'Hidden'\n    Hidden = ActivityReader\n"), 1,
        "rank 0: a worker process finds no class of the reader or the trainer (Can't get attribute 'Hidden' on"),
    "a page that leaves": (PAGE + "else:\n    raise SystemExit(3)\n", 1,
        "rank 0: the import of page.py in a worker process ended it (SystemExit 3)"),
    "a lambda": (PAGE.replace("ActivityTrainer())", "hold(ActivityTrainer()))").replace(GUARD,
        "def hold(trainer):\n    trainer.scale = lambda x: x\n    return trainer\n\n\n" + GUARD), 2,
        "error: trainer ActivityTrainer: its attribute scale (a lambda) cannot be sent to the shards"),
}  # fmt: skip


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [pytest.param(*page, id=name, marks=[] if name == "no guard" else SLOW) for name, page in PAGES.items()],
)
def test_a_page_that_shards_cannot_import_ends_with_one_line(tmp_path, text, code, said):
    make_data(tmp_path / "data")
    (tmp_path / "page.py").write_text(text)
    done = run(tmp_path / "page.py", tmp_path / "data", "--output", tmp_path / "out", "--shards", 1, check=False)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert [line[: len(said)] for line in lines] == [said], done.stderr


@SLOW
def test_an_exception_of_the_import_is_shown(tmp_path):
    make_data(tmp_path / "data")
    (tmp_path / "page.py").write_text(PAGE + "else:\n    1 / 0\n")
    done = run(tmp_path / "page.py", tmp_path / "data", "--output", tmp_path / "out", "--shards", 1, check=False)
    assert "rank 0: the import of page.py in a worker process failed:\nTraceback" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


@SLOW
def test_a_page_that_was_typed_in_is_sent_by_value(tmp_path):
    for name in ("my_model.py", "make_data.py"):
        (tmp_path / name).write_text(programs()[name])
    subprocess.run([sys.executable, "make_data.py"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-", "data", "--output", "out", "--shards", "1", "--rounds", "2"],
        input=PAGE, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "infer results: " in done.stdout
