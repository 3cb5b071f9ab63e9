"""reader/leaf_reader.py, leaf_columns.py: LEAF's files become users, or one line says what is wrong."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reader import Characters, DataError, Floats, Images, Labels, LeafReader, Words
from reader.leaf_columns import LEAF_ALPHABET

PLAIN = LeafReader(Floats((2,)), Labels(3))


def write(path, content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def leaf(**users):
    counts = [len(user["y"]) for user in users.values()]
    return {"users": list(users), "num_samples": counts, "user_data": users}


def read(folder, reader, **users):
    return dict(reader.read(write(folder / "all_data_train_9.json", leaf(**users))))


def refused(folder, reader, content):
    """The line that a file is refused with, without the file's name."""
    path = write(folder / "train.json", content)
    with pytest.raises(DataError) as caught:
        list(reader.read(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# -- LEAF's forms --------------------------------------------------------------------


def test_femnists_784_numbers_become_an_image(tmp_path):
    """The 30th number is the second of the second row."""
    paper = [1.0] * 784
    paper[29] = 0
    users = read(
        tmp_path, LeafReader(Floats((1, 28, 28)), Labels(62)), f0000_14={"x": [paper, [0.5] * 784], "y": [61, 0]}
    )
    x, y = users["f0000_14"]["x"], users["f0000_14"]["y"]
    assert (x.shape, x.dtype, y.dtype, y.tolist()) == ((2, 1, 28, 28), np.float32, np.int64, [61, 0])
    assert np.argwhere(x[0] == 0).tolist() == [[0, 1, 1]]
    assert (x[1] == 0.5).all()


def test_the_alphabet_is_leafs():
    assert len(LEAF_ALPHABET) == len(set(LEAF_ALPHABET)) == 80
    assert (LEAF_ALPHABET[0], LEAF_ALPHABET[1], LEAF_ALPHABET[-1]) == ("\n", " ", "}")


def test_shakespeares_characters_are_places_in_the_alphabet(tmp_path):
    r"""In \n, space, !, ", &, ', (, ), comma, -, ., 0 to 9, :, ;, >, ?, A to Z the comma is 8, A 25 and Z 50."""
    users = read(
        tmp_path, LeafReader(Characters(3), Characters()), **{"THE_PLAY_ROLE": {"x": ["A,Z", "\n }"], "y": ["!", "a"]}}
    )
    x, y = users["THE_PLAY_ROLE"]["x"], users["THE_PLAY_ROLE"]["y"]
    assert x.tolist() == [[25, 8, 50], [0, 1, 79]]
    assert y.tolist() == [2, LEAF_ALPHABET.index("a")]
    assert (x.dtype, y.dtype) == (np.int32, np.int32)


def tweet(text):
    return ["1467810369", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "ann", text]


def test_sent140s_words_are_places_in_the_vocabulary(tmp_path):
    """Cut as LEAF cuts them: "don't" is one word, marks are words, "@" and "#" are none; capitals are kept."""
    words = Words(6, 5, place=4)
    reader = LeafReader(words, Labels(2))
    reader.setup({"x": ["don't", "go", "!", "home"], "y": None})
    texts = ["don't go!", "@home #go Home now", "", "go go go go go home"]
    users = read(tmp_path, reader, ann={"x": [tweet(text) for text in texts], "y": [1, 0, 0, 1]})
    assert users["ann"]["x"].tolist() == [[0, 1, 2, 5, 5], [3, 1, 5, 5, 5], [5] * 5, [1] * 5]
    assert users["ann"]["x"].dtype == np.int32


def test_celebas_names_become_their_images_and_1_0_a_class(tmp_path):
    """Red over blue, 2 x 4, becomes 2 x 2: the colour of each row stays."""
    folder = tmp_path / "raw" / "img_align_celeba"
    folder.mkdir(parents=True)
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, :, 0], pixels[1, :, 2] = 255, 200
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(np.full((2, 2), 7, np.uint8)).save(folder / "grey.png")
    reader = LeafReader(Images(folder, 2), Labels(2))
    users = read(tmp_path, reader, **{"12": {"x": ["a.png", "grey.png"], "y": [1.0, 0.0]}})
    x, y = users["12"]["x"], users["12"]["y"]
    assert (x.shape, x.dtype, y.tolist()) == ((2, 3, 2, 2), np.uint8, [1, 0])
    assert x[0].tolist() == [[[255, 255], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [200, 200]]]
    assert (x[1] == 7).all()
    assert list(reader.also_reads(tmp_path)) == [folder]


def test_classes_may_have_names(tmp_path):
    users = read(tmp_path, LeafReader(Floats((1,)), Labels(("cat", "dog"))), ann={"x": [[1], [2]], "y": ["dog", "cat"]})
    assert users["ann"]["y"].tolist() == [1, 0]


# -- what LEAF's scripts do ------------------------------------------------------------


def test_all_files_of_a_split_are_read_and_what_lies_beside_them_is_not(tmp_path):
    names = ["train/all_data_0_niid_0_keep_0_train_9.json", "train/all_data_1_niid_0_keep_0_train_9.json.gz",
             "test/all_data_0_niid_0_keep_0_test_9.json", "all_data/all_data_0.json", "train/notes.txt"]  # fmt: skip
    for name in names:
        write(tmp_path / name, b"")
    assert [path.relative_to(tmp_path).as_posix() for path in PLAIN.files(tmp_path, "train")] == names[:2]
    assert [path.relative_to(tmp_path).as_posix() for path in PLAIN.files(tmp_path, "test")] == names[2:3]


def test_hierarchies_and_raw_text_are_left_alone(tmp_path):
    content = leaf(ann={"raw": "What the text was", "x": [[1, 2]], "y": [0]}) | {"hierarchies": ["THE_PLAY"]}
    (user,) = PLAIN.read(write(tmp_path / "train.json", content))
    assert (user[0], sorted(user[1])) == ("ann", ["x", "y"])


def test_num_samples_may_be_wrong(tmp_path):
    """LEAF leaves out 79 examples between a role's training and test, and counts them in the test's num_samples."""
    content = leaf(ann={"x": [[1, 2]], "y": [0]}) | {"num_samples": [80]}
    (user,) = PLAIN.read(write(tmp_path / "train.json", content))
    assert len(user[1]["y"]) == 1


def test_packed_files_hold_the_same(tmp_path):
    content = leaf(ann={"x": [[1, 2.5]], "y": [2]}, bob={"x": [[0, 0]] * 3, "y": [0, 1, 2]})
    plain, packed = (list(PLAIN.read(write(tmp_path / name, content))) for name in ("train.json", "train.json.gz"))
    assert [uid for uid, _ in plain] == [uid for uid, _ in packed] == ["ann", "bob"]
    for (_, one), (_, two) in zip(plain, packed, strict=True):
        assert all(one[name].tobytes() == two[name].tobytes() for name in ("x", "y"))


# -- the vocabulary ----------------------------------------------------------------------


def prepared(folder, size=5, **texts):
    users = {uid: {"x": [tweet(text) for text in said], "y": [0] * len(said)} for uid, said in texts.items()}
    path = write(folder / "train" / "all_data_train_9.json", leaf(**users))
    return LeafReader(Words(size, 5, place=4), Labels(2)).prepare(folder, [path])


def test_a_vocabulary_is_built_of_the_most_common_words_and_kept(tmp_path):
    """go 3, home 2, then "a" and "b" by name; one of five indices is for all others."""
    shared = prepared(tmp_path, ann=["go go home b", "c"], bob=["go home a"])
    assert shared == {"x": ["go", "home", "a", "b"], "y": None}
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) == {"vocab": shared["x"]}
    assert prepared(tmp_path, ann=["other words"]) == shared


def test_glove_as_leaf_packs_it_goes_before_a_vocabulary_of_ones_own(tmp_path):
    write(tmp_path / "vocab.json", {"vocab": ["own"]})
    write(tmp_path / "embs.json", {"vocab": ["the", "of"], "emba": [[0.1, 0.2], [0.3, 0.4], [0.0, 0.0]]})
    assert prepared(tmp_path, ann=["go"])["x"] == ["the", "of"]


def test_a_vocabulary_that_is_too_large_names_the_setting(tmp_path):
    path = write(tmp_path / "embs.json", {"vocab": ["a", "b", "c", "d", "e"], "emba": []})
    with pytest.raises(DataError, match=r"embs.json: 5 words and one index for all others need 6 indices, there are 5"):
        prepared(tmp_path, ann=["go"])
    write(path, {"vocab": ["a", "b", "c", "d"]})
    assert len(prepared(tmp_path, ann=["go"])["x"]) == 4


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"vocab": {"a": 0}}', b'{"vocab": [1]}', b"{}"])
def test_a_vocabulary_of_another_form_is_refused_by_file(tmp_path, content):
    path = write(tmp_path / "vocab.json", content)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, ann=["go"])
    assert str(caught.value).startswith(f'{path}: expected an object with a list of words under "vocab": ')


def test_a_file_that_cannot_be_counted_is_refused_by_file_and_uid(tmp_path):
    path = write(tmp_path / "train.json", {"user_data": {"ann": {"x": [5], "y": [1]}}})
    with pytest.raises(DataError, match=r"train.json: uid 'ann': x: example 0 is '5'; expected a list"):
        LeafReader(Words(5, 5, place=4), Labels(2)).prepare(tmp_path, [path])


def test_a_prepared_reader_travels(tmp_path):
    reader = LeafReader(Words(3, 2), Labels(2))
    reader.setup({"x": ["go", "home"], "y": None})
    reader = pickle.loads(pickle.dumps(reader))  # noqa: S301 - as it travels to a shard
    users = read(tmp_path, reader, ann={"x": ["home go"], "y": [1]})
    assert users["ann"]["x"].tolist() == [[1, 0]]


# -- damage --------------------------------------------------------------------------------


def user(x, y):
    return leaf(ok={"x": [[1, 2]], "y": [0]}, ann={"x": x, "y": y})


BY_UID = {
    "no y": ({"user_data": {"ann": {"x": []}}}, ": not LEAF's form: Object missing required field `y`"),
    "a list": ({"user_data": {"ann": [1]}}, ": not LEAF's form: Expected `object`, got `array`"),
    "x is a number": (user(3, [0]), ": not LEAF's form: Expected `array`, got `int` - at `x`"),
    "a text in x": (user([[1, "2"]], [0]), ": not LEAF's form: Expected `float`, got `str` - at `x[0][1]`"),
    "true in x": (user([[1, 2], [True, 2]], [0, 0]), "Expected `float`, got `bool` - at `x[1][0]`"),
    "null in x": (user([[1, None]], [0]), "got `null` - at `x[0][1]`"),
    "short": (user([[1, 2], [1]], [0, 0]), ": x: example 1 has 1 numbers, expected 2"),
    "far": (user([[1, 2], [1, 1e39]], [0, 0]), ": x: example 1 has a number beyond what float32 holds"),
    "farther": (user([[1, 2]], [0]), "Number out of range - at `x[0][1]`"),
    "more x": (user([[1, 2], [3, 4]], [0]), ": x and y do not match: 2 examples in x, 1 in y"),
    "none": (user([], []), " has no examples; remove the user"),
    "too high a class": (user([[1, 2]], [3]), ": y: example 0 is of class 3; classes are 0 to 2"),
    "too low a class": (user([[1, 2]] * 2, [0, -1]), ": y: example 1 is of class -1; classes are 0 to 2"),
    "half a class": (user([[1, 2]], [0.5]), ": y: example 0 is of class 0.5"),
    "true for a class": (user([[1, 2]], [True]), ": y: example 0 is of class True"),
    "a text for a class": (user([[1, 2]], ["1"]), ": y: example 0 is of class '1'"),
    "not there": ({"users": ["ann"], "user_data": {}}, " is in users but not in user_data"),
}


@pytest.mark.parametrize(("content", "message"), BY_UID.values(), ids=list(BY_UID))
def test_a_user_that_cannot_be_is_refused_by_file_and_uid(tmp_path, content, message):
    raw = json.dumps(content).encode()
    if "out of range" in message:
        raw = raw.replace(b'"ann": {"x": [[1, 2]]', b'"ann": {"x": [[1, 1e999]]')
    told = refused(tmp_path, PLAIN, raw)
    assert told.startswith("uid 'ann'")
    assert message in told


OTHERS = {
    "a long text": (Characters(3), ["abc", "abcd"], "x: example 1 has 4 characters, expected 3"),
    "no such character": (Characters(3), ["abc", "a{c"], "x: example 1 has the character '{', which is none of the 80"),
    "far beyond the alphabet": (Characters(3), ["abc", "ab\U0001f600"], "x: example 1 has the character '\U0001f600'"),
    "no text": (Characters(3), ["abc", 3], "Expected `str`, got `int` - at `x[1]`"),
    "two for one": (Characters(), ["a", "bc"], "x: example 1 has 2 characters, expected 1"),
    "not a tweet": (Words(5, 2, 4), [tweet("a"), ["1", "2"]], "x: example 1 is \"['1', '2']\"; expected a list with"),
    "no words": (Words(5, 2), ["a", None], "x: example 1 is 'None'; expected a text"),
    "no class": (Labels(("cat", "dog")), ["cat", "cow"], "x: example 1 is of class 'cow'; classes are cat, dog"),
    "a number for a class": (Labels(("cat", "dog")), ["cat", 1], "x: example 1 is of class 1; classes are cat, dog"),
}


@pytest.mark.parametrize(("column", "x", "message"), OTHERS.values(), ids=list(OTHERS))
def test_a_value_that_cannot_be_is_refused_by_its_place(tmp_path, column, x, message):
    told = refused(tmp_path, LeafReader(column, Labels(2)), leaf(ann={"x": x, "y": [0, 1]}))
    assert told.startswith("uid 'ann': ")
    assert message in told


@pytest.mark.parametrize("content", [None, b"no image", b"\x89PNG\r\n\x1a\n", "cut"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "raw" / "a.png"
    path.parent.mkdir()
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(path)
        content = path.read_bytes()[:-300]
    if content is not None:
        path.write_bytes(content)
    told = refused(tmp_path, LeafReader(Images(tmp_path / "raw", 4), Labels(2)), leaf(ann={"x": ["a.png"], "y": [0]}))
    assert told.startswith(f"uid 'ann': x: image {path} cannot be read: ")


def test_json_that_is_broken_within_a_user_is_told_with_its_place(tmp_path):
    told = refused(tmp_path, PLAIN, b'{"user_data": {"ann": {\n  "x": [[1,, 2]], "y": [0]}}}')
    assert told.startswith("not JSON at line 2, column 12")


@pytest.mark.parametrize("raw", [b"plain text", gzip.compress(b"{}" * 1000)[:20], b""])
def test_a_packed_file_that_is_broken_is_refused_by_file(tmp_path, raw):
    path = tmp_path / "train.json.gz"
    path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        list(PLAIN.read(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_a_reader_says_the_same_wherever_the_images_lie():
    """Moving the data is no other run."""
    assert Images(Path("/here"), 84) == Images(Path("/there"), 84) != Images(Path("/here"), 64)
