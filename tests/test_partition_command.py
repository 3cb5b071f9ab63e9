"""python -m reader.partition: day folders that NpzReader reads, a picture of who got what; all of it or one line."""

import json
import os
import re
import tempfile
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from plain_sets import idx_folder, images, numbers, write_csv, write_idx
from running import ROOT, run

from protos.errors import BadInput
from reader import DataError, NpzReader
from reader.partition import PARTITIONERS, Order, Partitioner, laid_out, read_source
from reader.partition.command import main
from reader.partition.dealing import deal_out, train_count
from simulator.days import list_days
from simulator.settings import read_settings

BY_WRITER = ("--partitioner", "natural-id('writers')", "--test-share", "0.25")


@pytest.fixture
def mnist(tmp_path):
    """120 images of 6 writers, and 30 to be tested on."""
    return idx_folder(tmp_path / "mnist")


def partition(data, out, *arguments):
    assert main([str(data), str(out), *map(str, arguments)]) == 0
    return out


def refused(capsys, data, out, *arguments):
    """The command ends with one line and leaves nothing behind."""
    before = sorted(out.parent.rglob("*"))
    assert main([str(data), str(out), *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert sorted(out.parent.rglob("*")) == before
    return said


def users_of(out, day, split):
    """uid -> examples, as a run reads them."""
    reader, read = NpzReader(), {}
    for path in reader.files(out / day, split):
        for uid, examples in reader.read(path):
            assert uid not in read
            read[uid] = examples
    return read


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


# ---- day folders ----


def test_each_user_s_own_share_is_tested_and_nothing_is_lost(mnist, tmp_path):
    out = partition(mnist, tmp_path / "out", "--partitioner", "dirichlet(0.5, 5)", "--users", 8, "--test-share", 0.25)
    assert list_days(out) == ["20200101", "20200102"]
    train, test = users_of(out, "20200101", "train"), users_of(out, "20200102", "test")
    assert list(train) == list(test) == [f"user{number:04d}" for number in range(8)]
    seen = []
    for uid in train:
        n, tested = len(train[uid]["y"]), len(test[uid]["y"])
        assert n == (n + tested) * 3 // 4 >= 3
        for examples in (train[uid], test[uid]):
            assert (examples["x"].dtype, examples["y"].dtype) == (np.float32, np.int64)
            assert examples["x"].shape == (len(examples["y"]), 1, 6, 6)
            mine = numbers(examples["x"])
            assert examples["y"].tolist() == [number % 4 for number in mine]
            assert np.rint(examples["x"][:, 0] * 255).astype(int).tolist() == images(120)[mine].tolist()
            seen += mine
    assert sorted(seen) == list(range(120))


@pytest.mark.parametrize(
    ("count", "share", "left"), [(10, 0.25, 7), (10, 0.1, 9), (70, 0.1, 63), (1, 0.9, 1), (5, 0.0, 5)]
)
def test_train_shares_are_rounded_down_and_nobody_trains_on_nothing(count, share, left):
    assert train_count(count, share) == left


def test_the_set_s_own_test_examples_are_tested_by_users_of_their_own(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr("reader.partition.dealing._TESTED_AT_ONCE", 12)
    out = partition(mnist, tmp_path / "out", "--partitioner", "iid", "--users", 5)
    train, test = users_of(out, "20200101", "train"), users_of(out, "20200102", "test")
    assert sorted(numbers(np.concatenate([user["x"] for user in train.values()]))) == list(range(120))
    assert {uid: numbers(user["x"]) for uid, user in test.items()} == {
        f"test-set-{part:04d}": list(range(120 + 10 * part, 130 + 10 * part)) for part in range(3)
    }


def test_natural_ids_have_their_own_examples_of_the_test_set_too(mnist, tmp_path):
    out = partition(mnist, tmp_path / "out", "--partitioner", "natural-id('writers')")
    test = users_of(out, "20200102", "test")
    assert list(test) == list(users_of(out, "20200101", "train")) == [f"w{number}" for number in range(6)]
    assert sorted(numbers(test["w4"]["x"])) == [124, 130, 136, 142, 148]


def test_pooled_sets_are_dealt_out_together(mnist, tmp_path):
    out = partition(mnist, tmp_path / "out", *BY_WRITER, "--pool")
    train, test = users_of(out, "20200101", "train"), users_of(out, "20200102", "test")
    assert {uid: (len(train[uid]["y"]), len(test[uid]["y"])) for uid in train} == {f"w{n}": (18, 7) for n in range(6)}


def test_without_tests_there_is_no_test_day(mnist, tmp_path):
    out = partition(mnist, tmp_path / "out", "--partitioner", "iid", "--users", 5, "--test-share", 0)
    assert list_days(out) == ["20200101"]


def test_scales(mnist, tmp_path):
    """Bytes b become b / 255; (b / 255 - 0.5) / 0.5; or (b / 255 - mean) / (deviation + 0.001), pixel by pixel."""
    x = images(120).astype(np.float64) / 255
    for scale, wanted in (("centred", 2 * x - 1), ("standard", (x - x.mean(axis=0)) / (x.std(axis=0) + 0.001))):
        out = partition(mnist, tmp_path / scale, "--partitioner", "iid", "--users", 3, "--scale", scale)
        plain = partition(mnist, tmp_path / f"{scale} plain", "--partitioner", "iid", "--users", 3)
        for uid, user in users_of(plain, "20200101", "train").items():
            read = users_of(out, "20200101", "train")[uid]["x"][:, 0]
            np.testing.assert_allclose(read, wanted[numbers(user["x"])], atol=1e-5)


def test_a_csv_with_names_of_labels(tmp_path):
    rows = [[number / 4, "yes" if number % 3 else "no", f"p{number % 4}"] for number in range(40)]
    data = write_csv(tmp_path / "set.csv", ["a", "good", "who"], rows)
    choice = ("--label", "good", "--columns", "who", "--partitioner", "natural-id('who')", "--test-share", 0.2)
    out = partition(data, tmp_path / "out", *choice)
    user = users_of(out, "20200101", "train")["p1"]
    assert sorted(user["x"][:, 0].tolist()) == [n / 4 for n in range(1, 40, 4) if n / 4 in user["x"][:, 0]]
    assert user["y"].tolist() == [int(round(4 * a) % 3 > 0) for a in user["x"][:, 0]]
    assert json.loads((out / "partition.json").read_text(encoding="utf-8"))["labels"] == ["no", "yes"]


def test_shifted_users_are_shifted_in_tests_too_and_the_common_test_set_is_not(mnist, tmp_path):
    turned = ("--partitioner", "feature-shift(rotations=[180])", "--users", 4)
    out = partition(mnist, tmp_path / "own", *turned, "--test-share", 0.25)
    both = {**users_of(out, "20200101", "train"), **users_of(out, "20200102", "test")}
    for user in both.values():
        number = numbers(np.rot90(user["x"], 2, axes=(2, 3)))
        assert user["y"].tolist() == [each % 4 for each in number]
    noisy = partition(mnist, tmp_path / "noise", "--partitioner", "feature-shift(noise=0.1)", "--users", 4)
    common = users_of(noisy, "20200102", "test")
    assert numbers(np.concatenate([user["x"] for user in common.values()])) == list(range(120, 150))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(mnist, tmp_path):
    choice = ("--partitioner", "feature-shift('dirichlet(0.5, 5)', noise=0.1)", "--users", 6, "--test-share", 0.2)
    made = [content(partition(mnist, tmp_path / str(n), *choice, "--seed", seed)) for n, seed in enumerate((3, 3, 4))]
    assert made[0] == made[1]
    assert {name for name in made[0] if made[0][name] != made[2].get(name)} >= {
        "20200101/train_000.npz", "20200102/test_000.npz", "partition.json", "who_got_what.svg"
    }  # fmt: skip


def test_files_hold_about_as_many_examples_each(mnist, tmp_path):
    out = partition(mnist, tmp_path / "out", "--partitioner", "iid", "--users", 40, "--files", 4)
    files = NpzReader().files(out / "20200101", "train")
    assert [path.name for path in files] == [f"train_{number:03d}.npz" for number in range(4)]
    assert [sum(len(user["y"]) for _, user in NpzReader().read(path)) for path in files] == [30] * 4


def test_what_was_done_is_written_down(mnist, tmp_path):
    out = partition(mnist, tmp_path / "out", "--partitioner", "dirichlet(10.0)", "--users", 3, "--seed", 7)
    said = json.loads((out / "partition.json").read_text(encoding="utf-8"))
    assert said["partitioner"] == "dirichlet(alpha=10.0, min_partition_size=10, self_balancing=False)"
    assert (said["seed"], said["classes"], said["shape"]) == (7, 4, [1, 6, 6])
    assert {uid: len(user["y"]) for uid, user in users_of(out, "20200101", "train").items()} == said["train"]
    assert sum(said["train"].values()) == 120


@pytest.mark.parametrize(
    ("dealt", "uids", "said"),
    [
        ([[0, 1], [1]], ["a", "b"], "Own gives row 1 to 2 users"),
        ([[0, 0]], ["a"], "Own gives row 0 to 2 users"),
        ([[0], []], ["a", "b"], "Own gives 'b' 0 rows"),
        ([[0], [-1]], ["a", "b"], "Own gives 'b' 1 rows, not some of 0 to 119"),
        ([[0], [120]], ["a", "b"], "Own gives 'b' 1 rows, not some of 0 to 119"),
        ([[0], [1]], ["a", "a"], "Own names 1 different users for 2 parts"),
        ([[0], [1]], ["a"], "Own names 1 different users for 2 parts"),
        ([], [], "Own names 0 different users for 0 parts"),
    ],
)
def test_a_partitioner_of_anybody_s_is_held_to_what_it_must_give(mnist, dealt, uids, said):
    class Own(Partitioner):
        def deal(self, examples, users, rng):
            return [np.array(rows, np.int64) for rows in dealt]

        def uids(self, examples, users):
            return uids

    with pytest.raises(BadInput) as caught:
        deal_out(read_source(mnist), Own(), None, 0.5, 0)
    assert str(caught.value).startswith(said)


# ---- picture and words ----


def test_the_picture_has_a_bar_for_each_user_as_high_as_it_has_examples(mnist, tmp_path, capsys):
    out = partition(mnist, tmp_path / "a & b", "--partitioner", "pathological(2)", "--users", 9)
    said = capsys.readouterr().out.splitlines()
    picture = ET.fromstring((out / "who_got_what.svg").read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    bars = [group for group in picture.iter(f"{space}g") if group.get("class") == "user"]
    counts = json.loads((out / "partition.json").read_text(encoding="utf-8"))["train"]
    most = max(counts.values())
    assert len(bars) == 9
    for bar, (uid, count) in zip(bars, counts.items(), strict=True):
        assert bar.find(f"{space}title").text == f"{uid}: {count} examples, 2 labels"
        high = [float(path.get("d").split("v")[1].split("h")[0]) for path in bar.iter(f"{space}path")]
        assert len(high) == 2
        assert sum(high) == pytest.approx(320 * count / most, abs=0.02)
    smallest, largest, all_of_them = min(counts.values()), most, sum(counts.values())
    assert said[0].startswith(f"{all_of_them} examples of 9 users: {smallest} to {largest} each, median ")
    assert "; 2 to 2 of 4 labels, 2.0 on average; " in said[0]
    assert said[0].endswith(f"; {120 - all_of_them} left out; tested on 30 examples of 1 users")
    assert said[1] == str(out / "who_got_what.svg")


def test_names_in_the_picture_are_escaped(tmp_path):
    rows = [[number, "<b>" if number % 2 else "&", '"x"<'] for number in range(8)]
    data = write_csv(tmp_path / "set.csv", ["a", "y", "who"], rows)
    choice = ("--label", "y", "--columns", "who", "--partitioner", "natural-id('who')", "--test-share", 0)
    text = "".join(
        ET.fromstring((partition(data, tmp_path / "o", *choice) / "who_got_what.svg").read_text()).itertext()
    )
    assert "<b>" in text
    assert '"x"<: 8 examples' in text


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--partitioner", "iid"), "--users is missing"),
        (("--partitioner", "iid", "--users", "200"), "--users 200: "),
        (("--partitioner", "iid", "--users", "0"), "--users 0: it must be at least 1"),
        (("--partitioner", "dirichlet"), "--partitioner 'dirichlet': alpha is missing"),
        (("--partitioner", "idd", "--users", "3"), "there is no partitioner 'idd'"),
        (("--partitioner", "iid", "--users", "3", "--test-share", "1"), "--test-share 1.0"),
        (("--partitioner", "iid", "--users", "3", "--pool"), "--pool leaves no test set"),
        (("--partitioner", "iid", "--users", "3", "--seed", "-1"), "--seed -1"),
        (("--partitioner", "iid", "--users", "3", "--files", "0"), "--files 0"),
        (("--partitioner", "iid", "--users", "3", "--train-day", "20200230"), "--train-day '20200230' is no date"),
        (("--partitioner", "iid", "--users", "3", "--test-day", "20200101"), "must come after --train-day 20200101"),
        (("--partitioner", "natural-id('who')"), "has no column 'who'; there are: 'writers'"),
    ],
)
def test_what_cannot_be_done_is_one_line(mnist, tmp_path, capsys, arguments, said):
    assert said in refused(capsys, mnist, tmp_path / "out", *arguments)


def test_a_folder_that_holds_something_is_refused(mnist, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    partition(mnist, out, "--partitioner", "iid", "--users", 3)  # an empty one is filled
    assert "is not empty" in refused(capsys, mnist, out, "--partitioner", "iid", "--users", 3)
    assert "is not empty" in refused(capsys, mnist, mnist / "train-writers.txt", "--partitioner", "iid", "--users", 3)


def test_a_set_without_tests_wants_a_share(tmp_path, capsys):
    mnist = idx_folder(tmp_path / "mnist", test=0)
    assert "has no test set of its own" in refused(
        capsys, mnist, tmp_path / "out", "--partitioner", "iid", "--users", 3
    )
    pool = ("--partitioner", "iid", "--users", 3, "--pool", "--test-share", 0.5)
    assert "no test set of its own that could be pooled" in refused(capsys, mnist, tmp_path / "out", *pool)


def test_damaged_data_leaves_nothing(mnist, tmp_path, capsys):
    write_idx(mnist / "t10k-labels-idx1-ubyte.gz", [9] * 30)
    assert "has label 9" in refused(capsys, mnist, tmp_path / "out", "--partitioner", "iid", "--users", 3)


def test_a_user_called_as_those_who_test_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "train.npz", x=np.zeros((2, 3)), y=np.array([0, 1]), who=np.array(["test-set-0000", "a"]))
    np.savez(tmp_path / "test.npz", x=np.zeros((2, 3)), y=np.array([0, 1]))
    (tmp_path / "b").mkdir()
    said = refused(capsys, tmp_path, tmp_path / "b" / "out", "--partitioner", "natural-id('who')")
    assert "a user is called 'test-set-0000'" in said


def test_help_lists_all_partitioners(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "dirichlet(alpha, min_partition_size=10, self_balancing=False)" in said


def test_the_page_has_all_partitioners_as_they_are_written():
    page = (ROOT / "docs" / "partitioning.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+\b.*?)` \|", page, re.M)) >= {how for how, _ in PARTITIONERS.table()}


def test_splits_of_the_page_are_choices():
    page = (ROOT / "docs" / "partitioning.md").read_text(encoding="utf-8")
    written = [each for each in re.findall(r'--partitioner "(.+?)"', page) if not each.startswith("by-brightness")]
    assert len(written) == 5
    for choice in written:
        PARTITIONERS.make(choice)


def test_the_page_s_own_partitioner_deals_from_dark_to_bright(mnist, tmp_path):
    page = (ROOT / "docs" / "partitioning.md").read_text(encoding="utf-8")
    script = tmp_path / "my_partition.py"
    script.write_text(re.search(r"^```python\n(.*?)^```$", page, re.M | re.S)[1], encoding="utf-8")
    run(script, mnist, tmp_path / "out", "--partitioner", "by-brightness", "--users", 3, "--test-share", 0)
    light = [user["x"].mean(axis=(1, 2, 3)) for user in users_of(tmp_path / "out", "20200101", "train").values()]
    assert [len(each) for each in light] == [40] * 3
    assert light[0].max() <= light[1].min() <= light[1].max() <= light[2].min()


# ---- the reader ----


GOOD = {
    "uids": np.array(["a", "b"]), "counts": np.array([1, 2]), "x": np.zeros((3, 1, 4, 4), np.uint8),
    "y": np.array([0, 1, 2], np.uint8), "shift": np.float32(0), "factor": np.float32(1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": None}, "no array 'y'; make it with python -m reader.partition"),
        ({"uids": np.array([1, 2])}, "uids cannot be int64"),
        ({"uids": np.array(["a", "b", "c"])}, "3 uids, 2 counts that add up to 3, 3 examples in x and 3 in y"),
        ({"counts": np.array([1, 3])}, "2 counts that add up to 4"),
        ({"counts": np.array([0, 3])}, "uid 'a' has 0 examples"),
        ({"counts": np.array([-1, 4])}, "uid 'a' has -1 examples"),
        ({"counts": np.array([1.0, 2.0])}, "counts cannot be float64"),
        ({"x": np.zeros((3, 4))}, "x is float64"),
        ({"x": np.full((3, 4), np.inf, np.float32)}, "uid 'a': x holds a number that is not finite"),
        ({"y": np.array([0, 1])}, "2 in y do not match"),
        ({"y": np.array([0, -1, 1])}, "y holds the label -1"),
        ({"y": np.array([0, 1, 3])}, "y holds the label 3, but the model has 3 classes"),
        ({"x": np.zeros((3, 1, 5, 5), np.uint8)}, "examples have the shape (1, 5, 5), but the model takes (1, 4, 4)"),
        ({"factor": np.zeros(4, np.float32)}, "factor of shape (4,)"),
        ({"shift": np.float32(np.nan)}, "shift of shape ()"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, changed, said):
    path = tmp_path / "train_000.npz"
    np.savez(path, **{name: array for name, array in {**GOOD, **changed}.items() if array is not None})
    shape = () if "x" in changed and changed["x"].ndim == 2 else (1, 4, 4)
    with pytest.raises(DataError) as caught:
        list(NpzReader(shape, 3).read(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "train_000.npz"
    np.savez_compressed(path, **GOOD)
    whole = path.read_bytes()
    assert [uid for uid, _ in NpzReader().read(path)] == ["a", "b"]
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], b"\x80\x04K\x01."):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train_000.npz: cannot be read as an NPZ file"):
            list(NpzReader().read(path))


# ---- a page on the set itself ----


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_set_is_laid_out_once_and_anew_when_it_has_changed(mnist, temporary):
    order = Order("natural-id('writers')", test_share=0.25)
    once = laid_out(mnist, order)
    made = (once / "partition.json").stat().st_mtime_ns
    assert laid_out(mnist, order) == once
    assert (once / "partition.json").stat().st_mtime_ns == made
    (mnist / "train-writers.txt").write_text("me\n" * 120, encoding="ascii")
    anew, other = laid_out(mnist, order), laid_out(mnist, Order("natural-id('writers')", test_share=0.5))
    assert len({once, anew, other}) == 3
    assert list(users_of(anew, "20200101", "train")) == ["me"]


def test_a_folder_that_others_can_enter_is_not_used(mnist, temporary):
    home = temporary / f"flsim-partition-{os.getuid()}"
    home.mkdir(mode=0o755)
    with pytest.raises(BadInput, match="can be entered by others"):
        laid_out(mnist, Order("iid", users=3))


def test_digits_lays_out_idx_files_by_writer_and_takes_other_folders_as_they_are(
    mnist, temporary, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "examples")
    from digits import DigitsSettings

    settings = read_settings(DigitsSettings, [str(mnist)])
    assert settings.data.parent.parent == temporary
    assert list(users_of(settings.data, "20200101", "train")) == [f"w{number}" for number in range(6)]
    assert read_settings(DigitsSettings, [str(settings.data)]).data == settings.data
    (mnist / "train-writers.txt").unlink()
    with pytest.raises(BadInput, match=r"^DATA .*has no column 'writers'; there are: none$"):
        read_settings(DigitsSettings, [str(mnist)])


def test_the_small_set_of_digits_is_one_that_is_read(tmp_path, monkeypatch, temporary):
    monkeypatch.syspath_prepend(ROOT / "examples")
    import make_data

    make_data.make("digits", tmp_path / "a")
    out = laid_out(tmp_path / "a", Order("natural-id('writers')", test_share=0.25))
    users = users_of(out, "20200101", "train")
    assert len(users) == 24
    assert {len(user["y"]) for user in users.values()} == {30}
    # Two of one digit are more alike than two of different ones.
    x = np.concatenate([user["x"] for user in users.values()])
    y = np.concatenate([user["y"] for user in users.values()])
    means = np.stack([x[y == digit].mean(axis=0) for digit in range(10)])
    nearest = ((x[:, None] - means) ** 2).sum(axis=(2, 3, 4)).argmin(axis=1)
    assert (nearest == y).mean() > 0.5
    assert not any(np.array_equal(one, two) for one, two in pairwise(means))
