"""The key of what a reader makes: another one whenever its users might be others, none where that cannot be told."""

import importlib
import sys
import threading

import pytest

from protos.errors import BadInput
from reader import ReaderBase
from simulator import Settings
from simulator.running.reader_cache import NoKey, check_cache, reader_cache

DAY = "20200101"


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / DAY).mkdir(parents=True)
    (tmp_path / "data" / DAY / "train.json").write_text("1")
    return tmp_path / "data"


class Lines(ReaderBase):
    """With values of its own."""

    def __init__(self, **held):
        self.__dict__.update(held)

    def also_reads(self, data):
        return [data / "raw"] if (data / "raw").exists() else getattr(self, "beside", [])

    def read(self, path):
        yield "a", {}


def key(data, reader, shared=None, **settings):
    cache = reader_cache(Settings(data=data, cache=data.parent / "cache", **settings), reader)
    return cache.with_shared(shared or {}).of_day(DAY, "train").key


def test_equal_readers_have_one_key_and_other_values_another(data):
    same = key(data, Lines(size=1))
    assert key(data, Lines(size=1), lr=0.5) == same
    assert key(data, Lines(size=2)) != same
    assert key(data, Lines(size=1), {"vocab": ["a"]}) != same


def test_training_and_test_examples_of_one_file_have_two_keys(data):
    cache = reader_cache(Settings(data=data, cache=data.parent / "cache"), Lines())
    assert cache.of_day(DAY, "train").key != cache.of_day(DAY, "test").key


def test_of_settings_that_a_reader_holds_those_count_that_mean_something(data):
    def of(**settings):
        return key(data, Lines(settings=Settings(data=data, **settings)))

    assert of(output="a", shards=2) == of(output="b", shards=3)
    assert of(epochs=1) != of(epochs=2)


@pytest.mark.parametrize("place", ["labels.csv", f"{DAY}/labels.csv", "raw/deep/1.png"])
def test_what_lies_beside_the_files_counts(data, place):
    before = key(data, Lines())
    path = data / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")
    one = key(data, Lines())
    path.write_text("2")
    assert len({before, one, key(data, Lines())}) == 3


def test_what_is_read_beside_and_missing_is_refused_by_name(data):
    with pytest.raises(BadInput, match=r"gone\.csv, which Lines also reads, is not there"):
        key(data, Lines(beside=[data / "gone.csv"]))


HELPED = "from helper import size\nfrom reader import ReaderBase\nclass Own(ReaderBase):\n    def read(self, path):\n"
FILES = {
    "own_reader.py": f"{HELPED}        from pack.inner import deep\n        yield 'a', size\n",
    "helper.py": "from pack import top\nsize = 1\n",
    "pack/__init__.py": "top = 1\n",
    "pack/inner.py": "from . import other\nfrom .deeper import values\ndeep = 1\n",
    "pack/deeper.py": "values = [1]\n",
}


@pytest.mark.parametrize("edited", FILES)
def test_the_readers_code_and_what_it_imports_count(data, tmp_path, monkeypatch, edited):
    for name, text in {**FILES, "stranger.py": ""}.items():
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "code")
    for name in ("own_reader", "helper", "pack", "pack.inner", "pack.deeper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    reader = importlib.import_module("own_reader").Own()
    before = key(data, reader)
    (tmp_path / "code" / "stranger.py").write_text("1")
    assert key(data, reader) == before
    assert "pack.inner" not in sys.modules, "nothing is imported for it"
    (tmp_path / "code" / edited).write_text(f"{FILES[edited]}# other\n")
    assert key(data, reader) != before


def test_the_code_of_what_a_reader_holds_counts(data, tmp_path, monkeypatch):
    """Wherever it comes from: the reader's own code need not import it."""
    (tmp_path / "code").mkdir()
    path = tmp_path / "code" / "words.py"
    text = "class Cut:\n    pass\nclass Cuts:\n    pass\ndef cut(text):\n    return text.split()\n"
    monkeypatch.syspath_prepend(tmp_path / "code")
    path.write_text(text)
    words = importlib.import_module("words")
    for held in (words.Cut(), [{"a": words.Cut()}], words.Cut, words.cut):
        path.write_text(text)
        before = key(data, Lines(held=held))
        path.write_text(f"{text}# other\n")
        assert key(data, Lines(held=held)) != before
    monkeypatch.delitem(sys.modules, "words")


def test_a_reader_that_cannot_be_told_has_no_key(data):
    with pytest.raises(NoKey, match="of what Lines holds, not all can be told"):
        key(data, Lines(lock=threading.Lock()))
    typed = type("Typed", (Lines,), {"__module__": "notebook"})
    with pytest.raises(NoKey, match="the source of notebook is in no file"):
        key(data, typed())


@pytest.mark.parametrize("place", ["data", f"data/{DAY}", f"data/{DAY}/cache"])
def test_a_cache_among_the_data_is_refused(data, place):
    with pytest.raises(BadInput, match="lies among the data"):
        check_cache(Settings(data=data, cache=data.parent / place), Lines())
    check_cache(Settings(data=data, cache=data / "cache"), Lines())
    check_cache(Settings(data=data), Lines())


@pytest.mark.parametrize("place", ["data", "data/train", "data/test/deep"])
def test_a_cache_among_data_without_days_is_refused(tmp_path, place):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    with pytest.raises(BadInput, match="lies among the data"):
        check_cache(Settings(data=data, cache=tmp_path / place), Lines())
    check_cache(Settings(data=data, cache=data / "cache"), Lines())


def test_the_files_of_data_without_days_have_a_key(tmp_path):
    """What lies beside train/ and test/ counts, as beside day folders; what lies in folders beside them does not."""
    data, keys = tmp_path / "data", []
    for name in ("train/a.txt", "vocab.json", "all_data/b.txt"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("1\n")
        cache = reader_cache(Settings(data=data, cache=tmp_path / "cache"), Lines())
        keys.append(cache.of_day("00000000", "train").key)
    assert keys[0] != keys[1] == keys[2]


def test_a_cache_that_is_a_file_is_refused(data):
    with pytest.raises(BadInput, match="is no folder"):
        check_cache(Settings(data=data, cache=data / DAY / "train.json"), Lines())
