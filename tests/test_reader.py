"""reader/: LEAF's Reddit files become users, or one line says which file, which uid and what is wrong."""

import gzip
import json
import logging
import pickle
import random

import numpy as np
import orjson
import pytest

from reader import DataError, LeafRedditReader, ReaderBase
from reader.leaf_json import read_users

VOCAB = {"<PAD>": 0, "<UNK>": 1, "the": 2, "cat": 3, "sat": 4}
THE_CAT = ["the", "cat", "sat"]


def entry(*sequences):
    """One comment a sequence: targets are the next tokens, every token counts."""
    return {
        "x": [[sequence] for sequence in sequences],
        "y": [{"target_tokens": [[*s[1:], "<PAD>"]], "count_tokens": [[1] * len(s)]} for s in sequences],
    }


def leaf(**users):
    return {"users": list(users), "user_data": users}


def write(path, content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def make_reader():
    reader = LeafRedditReader(vocab_size=10, seq_len=3)
    reader.setup({"vocab": VOCAB})
    return reader


def read(path):
    return dict(make_reader().read(path))


# -- files and examples ------------------------------------------------------------


def test_files_of_a_day_are_those_of_the_split_sorted(tmp_path):
    names = ["train_b.json", "train_a.json.gz", "train/c.json", "test_data.json", "train.txt", ".train.json",
             "train/.hidden.json", "other/train.json", "trains.json/x.json", "train/deeper/d.json"]  # fmt: skip
    for name in names:
        write(tmp_path / name, b"")
    found = LeafRedditReader().files(tmp_path, "train")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "train/c.json", "train_a.json.gz", "train_b.json",
    ]  # fmt: skip
    assert [path.name for path in LeafRedditReader().files(tmp_path, "test")] == ["test_data.json"]
    assert LeafRedditReader().files(tmp_path / "none", "train") == []


@pytest.mark.parametrize("name", ["train.json", "train.json.gz"])
def test_tokens_become_ids_plain_or_packed(tmp_path, name):
    ann = entry(THE_CAT, ["dog", "cat", "<PAD>"])
    ann["y"][1]["count_tokens"] = [[0, 1, 0]]
    users = read(write(tmp_path / name, leaf(ann=ann, bob=entry(["sat"] * 3))))
    assert list(users) == ["ann", "bob"]
    assert users["ann"]["x"].tolist() == [[2, 3, 4], [1, 3, 0]]
    assert users["ann"]["y"].tolist() == [[3, 4, 0], [3, 0, 0]]
    assert users["ann"]["mask"].tolist() == [[1, 1, 1], [0, 1, 0]]
    assert [users["ann"][key].dtype.name for key in ("x", "y", "mask")] == ["int32", "int32", "float32"]
    assert users["bob"]["x"].tolist() == [[4, 4, 4]]


def test_comments_of_several_sequences_are_put_one_after_the_other(tmp_path):
    ann = {
        "x": [[THE_CAT, ["sat", "the", "cat"]], [["cat", "cat", "cat"]]],
        "y": [
            {"target_tokens": [["cat", "sat", "sat"], ["the", "cat", "<PAD>"]], "count_tokens": [[1, 1, 1], [1, 1, 0]]},
            {"target_tokens": [["cat", "cat", "<PAD>"]], "count_tokens": [[1, 1, 0]]},
        ],
    }
    users = read(write(tmp_path / "train.json", leaf(ann=ann)))
    assert users["ann"]["x"].tolist() == [[2, 3, 4], [4, 2, 3], [3, 3, 3]]
    assert users["ann"]["y"].tolist() == [[3, 4, 4], [2, 3, 0], [3, 3, 0]]
    assert users["ann"]["mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]


# -- the vocabulary ----------------------------------------------------------------


def test_a_vocabulary_is_built_from_all_files_and_its_ids_start_after_pad_and_unk(tmp_path):
    """cat 4 times, the 3, a and b once (by name), c too but there is room for four words."""
    one = write(tmp_path / "20200101" / "train_1.json", leaf(ann=entry(["cat", "cat", "the"], ["b", "<PAD>", "<UNK>"])))
    two = write(tmp_path / "20200101" / "train_2.json.gz", leaf(bob=entry(["cat", "cat", "the"], ["the", "a", "c"])))
    reader = LeafRedditReader(vocab_size=6, seq_len=3)
    shared = reader.prepare(tmp_path, [one, two])
    assert shared == {"vocab": {"<PAD>": 0, "<UNK>": 1, "cat": 2, "the": 3, "a": 4, "b": 5}}
    reader.setup(json.loads(json.dumps(shared)))
    assert dict(reader.read(two))["bob"]["x"].tolist() == [[2, 2, 3], [3, 4, 1]]


def test_the_vocabulary_is_built_once(tmp_path):
    train = write(tmp_path / "train.json", leaf(ann=entry(THE_CAT)))
    shared = LeafRedditReader(10, 3).prepare(tmp_path, [train])
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["vocab"] == shared["vocab"]
    write(train, leaf(ann=entry(["other", "words", "here"])))
    assert LeafRedditReader(10, 3).prepare(tmp_path, [train]) == shared
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.json", "vocab.json"]


def test_a_vocabulary_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    train = write(tmp_path / "train.json", leaf(ann=entry(THE_CAT)))

    def break_off(content, file, **options):
        file.write('{"vocab"')
        raise KeyboardInterrupt

    monkeypatch.setattr("reader.vocabulary.json.dump", break_off)
    with pytest.raises(KeyboardInterrupt):
        LeafRedditReader(10, 3).prepare(tmp_path, [train])
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]


def test_a_folder_that_cannot_be_written_keeps_the_vocabulary_for_the_run(tmp_path, monkeypatch, caplog):
    train = write(tmp_path / "train.json", leaf(ann=entry(THE_CAT)))

    def refuse(**options):
        raise OSError(30, "Read-only file system")

    # Not by the folder's mode: root may write all the same.
    monkeypatch.setattr("reader.vocabulary.tempfile.mkstemp", refuse)
    with caplog.at_level(logging.WARNING):
        shared = LeafRedditReader(10, 3).prepare(tmp_path, [train])
    assert shared["vocab"] == {"<PAD>": 0, "<UNK>": 1, "cat": 2, "sat": 3, "the": 4}
    (warning,) = caplog.messages
    assert f"{tmp_path / 'vocab.json'} cannot be written (Read-only file system)" in warning


@pytest.mark.parametrize("content", [VOCAB, {"vocab": VOCAB, "size": 5}, {**VOCAB, "vocab": 5}])
def test_a_vocabulary_that_is_there_is_taken(tmp_path, content):
    """Plain, or under the key vocab as LEAF has it; "vocab" may be a word too."""
    write(tmp_path / "vocab.json", content)
    words = content["vocab"] if "size" in content else content
    assert LeafRedditReader(10, 3).prepare(tmp_path, []) == {"vocab": words}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        ([1], "expected word -> id"),
        ({"vocab": {"<PAD>": 0, "<UNK>": 1, "a": "2"}}, "expected word -> id"),
        ({"vocab": {"<PAD>": 0, "<UNK>": 1, "a": True}}, "expected word -> id"),
        ({"vocab": {"the": 0, "<UNK>": 1}}, "<PAD> must have id 0 and <UNK> id 1; delete the file"),
        ({"vocab": {"<PAD>": 0, "<UNK>": 2}}, "<PAD> must have id 0 and <UNK> id 1"),
        ({"vocab": {**VOCAB, "far": 10}}, "word 'far' has id 10; ids must be 0 to 9"),
        ({"vocab": {**VOCAB, "low": -1}}, "ids must be 0 to 9"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused_by_file(tmp_path, content, message):
    path = write(tmp_path / "vocab.json", content)
    with pytest.raises(DataError) as caught:
        LeafRedditReader(10, 3).prepare(tmp_path, [])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


# -- errors ------------------------------------------------------------------------


def changed(**parts):
    return leaf(ok=entry(THE_CAT), ann={**entry(THE_CAT), **parts})


BY_UID = {
    "no x": (leaf(ann={"y": []}), "not LEAF's Reddit form"),
    "no y": (leaf(ann={"x": []}), "not LEAF's Reddit form"),
    "no user": ({"user_data": {"ann": [1]}}, "not LEAF's Reddit form"),
    "no targets": (changed(y=[{"count_tokens": [[1, 1, 1]]}]), "KeyError: 'target_tokens'"),
    "no count_tokens": (changed(y=[{"target_tokens": [THE_CAT]}]), "KeyError: 'count_tokens'"),
    "x is a number": (changed(x=3), "not LEAF's Reddit form"),
    "a comment is a number": (changed(x=[3]), "not LEAF's Reddit form"),
    "a sequence is a number": (changed(x=[[3]]), "x"),
    "a token is a list": (changed(x=[[[["the"], "cat", "sat"]]]), "x"),
    "no examples": (leaf(ann=entry()), "has no examples; remove the user"),
    "more x than y": (changed(x=[[THE_CAT], [THE_CAT]]), "2 comments with 2 sequences in x, 1 with 1"),
    "more sequences in x": (changed(x=[[THE_CAT, THE_CAT]]), "x and y do not match: 1 comments with 2"),
    "fewer masks": (
        changed(y=[{"target_tokens": [THE_CAT], "count_tokens": []}]), "1 with 1 targets and 0 count_tokens in y",
    ),
    "short x": (changed(x=[[["the", "cat"]]]), "sequences of x have [2] tokens, expected 3"),
    "long targets": (
        changed(y=[{"target_tokens": [["a"] * 4], "count_tokens": [[1, 1, 1]]}]),
        "sequences of target_tokens have [4] tokens, expected 3",
    ),
    "short mask": (
        changed(y=[{"target_tokens": [THE_CAT], "count_tokens": [[1]]}]), "sequences of count_tokens have [1] tokens",
    ),
    "words for a mask": (
        changed(y=[{"target_tokens": [THE_CAT], "count_tokens": [["a", "b", "c"]]}]), "count_tokens must be numbers",
    ),
    "a user without data": ({"users": ["bob", "ann"], "user_data": {"bob": entry(THE_CAT)}}, "but not in user_data"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BY_UID.values(), ids=list(BY_UID))
def test_a_user_that_cannot_be_is_refused_by_file_and_uid(tmp_path, content, message):
    path = write(tmp_path / "train.json", content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: uid 'ann'")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_json_is_refused_by_file_line_and_column(tmp_path):
    path = write(tmp_path / "train.json", b'{\n  "users": [],\n  "user_data": {,}\n}')
    with pytest.raises(DataError, match=r"train.json: not JSON at line 3, column 17"):
        read(path)


@pytest.mark.parametrize("content", [[], {}, {"user_data": []}, {"users": ["ann"]}])
def test_json_of_another_form_is_refused_by_file(tmp_path, content):
    path = write(tmp_path / "train.json", content)
    with pytest.raises(DataError, match=r"train.json: not LEAF's form: an object with user_data"):
        read(path)


TWO = leaf(ann=entry(THE_CAT), bob=entry(["\u00e4", "\\", "\U0001f600"]))
WHOLE = json.dumps({**TWO, "num_samples": [1, 1]}).encode()
PIECES = [
    b'"', b"{", b"}", b"]", b",", b":", b"\\", b"null", b"1e999", b"NaN", b"\\ud800", b"\0", b"\xff", b'{"ann":1}',
    b'"users":3,', b'"user_data":{},', b"",
]  # fmt: skip


def as_a_whole(raw):
    """What a file holds by one look at all of it: its users, or what is wrong with it."""
    try:
        content = orjson.loads(raw)
    except ValueError:
        return "not JSON"
    if not isinstance(content, dict) or not isinstance(content.get("user_data"), dict):
        return "not LEAF's form"
    users = content.get("users")
    absent = [uid for uid in users if uid not in content["user_data"]] if isinstance(users, list) else []
    return "in users but not" if absent else list(content["user_data"].items())


def test_a_file_cut_in_users_is_what_it_is_as_a_whole(tmp_path):
    """Files with bytes put in, taken out, or repeated; what is not JSON in a part that is not read is let pass."""
    rng, kinds = random.Random(1), set()
    for _ in range(500):
        raw = bytearray(WHOLE)
        for _ in range(rng.randint(1, 3)):
            at, start = rng.randrange(len(raw)), rng.randrange(len(raw))
            put = rng.choice([*PIECES, raw[start : start + rng.randint(1, 40)]])
            raw[at : at + rng.choice([0, 0, 1, 4])] = put
        expected = as_a_whole(bytes(raw))
        try:
            found = list(read_users(write(tmp_path / "train.json", bytes(raw)), orjson.loads))
        except DataError as error:
            found = str(error)
        if isinstance(expected, list):
            assert found == expected
        elif expected != "not JSON":
            assert expected in found
        kinds.add(expected if isinstance(expected, str) else "fine")
    assert len(kinds) == 4


def flipped(raw):
    return raw[:30] + bytes(byte ^ 255 for byte in raw[30:60]) + raw[60:]


PACKED = gzip.compress(json.dumps(leaf(ann=entry(*[THE_CAT] * 50))).encode())


@pytest.mark.parametrize("raw", [b"plain text", PACKED[:-20], PACKED[:40], flipped(PACKED), b""])
def test_a_packed_file_that_is_broken_is_refused_by_file(tmp_path, raw):
    path = tmp_path / "train.json.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_missing_is_refused_by_file(tmp_path):
    with pytest.raises(DataError, match=r"none.json: cannot be read: .*No such file"):
        read(tmp_path / "none.json")


def test_a_file_that_cannot_be_counted_for_the_vocabulary_is_refused_by_file_and_uid(tmp_path):
    path = write(tmp_path / "train.json", {"user_data": {"ann": {"x": 5}}})
    with pytest.raises(DataError, match=r"train.json: uid 'ann': not LEAF's Reddit form"):
        LeafRedditReader(10, 3).prepare(tmp_path, [path])


# -- the template ------------------------------------------------------------------


class LinesReader(ReaderBase):
    """One user a line: uid and numbers."""

    def read(self, path):
        for line in path.read_text(encoding="utf-8").splitlines():
            uid, *numbers = line.split()
            yield uid, {"x": np.array(numbers, np.float32)}


def test_a_reader_of_ones_own_needs_read_alone(tmp_path):
    path = write(tmp_path / "train.txt", b"ann 1 2\nbob 3\n")
    reader = pickle.loads(pickle.dumps(LinesReader()))  # noqa: S301 - as it travels to a shard
    assert reader.files(tmp_path, "train") == [path]
    reader.setup(reader.prepare(tmp_path, [path]))
    assert {uid: examples["x"].tolist() for uid, examples in reader.read(path)} == {"ann": [1.0, 2.0], "bob": [3.0]}


def test_a_prepared_reader_travels_with_its_vocabulary(tmp_path):
    path = write(tmp_path / "train.json", leaf(ann=entry(THE_CAT)))
    reader = pickle.loads(pickle.dumps(make_reader()))  # noqa: S301 - as it travels to a shard
    assert dict(reader.read(path))["ann"]["x"].tolist() == [[2, 3, 4]]
