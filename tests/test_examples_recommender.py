"""examples/recommender.py: what it reads, what it learns, and that private factors survive a crash."""

import shutil
import sys

import numpy as np
import pytest
from running import ROOT, assert_same_record, kill_all, params, private, run, start, wait_until

from reader import DataError

sys.path.insert(0, str(ROOT / "examples"))

import make_data
import recommender

PAGE = ROOT / "examples" / "recommender.py"


def read(folder, split, **how):
    reader = recommender.RatingsReader(items=9, **how)
    files = reader.files(folder, split)
    reader.setup(reader.prepare(folder, files))
    return {uid: examples for file in files for uid, examples in reader.read_split(file, split)}


def write(folder, *lines):
    (folder / "u.data").write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return folder


def test_the_last_fifth_of_each_users_ratings_is_the_test(tmp_path):
    """Of user 2: times 10, 20, 30, 30, 50; of two ratings at one time the one that comes first in the file."""
    write(tmp_path, (2, 5, 1, 50), (7, 1, 4, 9), (2, 4, 5, 30), (2, 3, 2, 30), (2, 1, 3, 10), (2, 2, 3, 20))
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert {uid: list(each["item"]) for uid, each in train.items()} == {"2": [1, 2, 4, 3], "7": [1]}
    assert {uid: list(each["item"]) for uid, each in test.items()} == {"2": [5]}
    assert (test["2"]["y"].tolist(), test["2"]["y"].dtype, test["2"]["item"].dtype) == ([1], "float32", "int64")


def test_the_yardsticks_are_the_mean_and_damped_biases_of_what_is_for_training(tmp_path):
    """Mean of 3, 3, 5, 2, 4 = 3.4; item 1: (3 - 3.4 + 4 - 3.4) / 7; user 2 of what is left, by 4 + 5."""
    write(tmp_path, (2, 5, 1, 50), (7, 1, 4, 9), (2, 4, 5, 30), (2, 3, 2, 30), (2, 1, 3, 10), (2, 2, 3, 20))
    item = {1: 0.2 / 7, 2: -0.4 / 6, 3: -1.4 / 6, 4: 1.6 / 6, 5: 0}
    own = sum(y - 3.4 - item[i] for i, y in ((1, 3), (2, 3), (4, 5), (3, 2))) / 9
    (known,) = read(tmp_path, "test")["2"]["known"]
    assert known == pytest.approx([3.4, 3.4 + own])


def test_a_random_fifth_is_the_same_each_time_and_another_than_the_last(tmp_path):
    make_data.make("recommender", tmp_path / "data", users=3)
    reader = recommender.RatingsReader(300, "random")
    (file,) = reader.files(tmp_path / "data", "train")
    reader.setup(reader.prepare(tmp_path / "data", [file]))
    one, other = ({u: e["item"].tolist() for u, e in reader.read_split(file, "test")} for _ in range(2))
    reader.split = "last"
    last = {u: e["item"].tolist() for u, e in reader.read_split(file, "test")}
    assert one == other != last
    assert {u: len(e) for u, e in one.items()} == {u: len(e) for u, e in last.items()}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ((1, 10, 3, 0), "line 2, user 1: item 10 is not within 1 to 9; more items: --items"),
        ((1, 0, 3, 0), "item 0 is not within 1 to 9"),
        ((1, 2, 6, 0), "line 2, user 1: rating 6 is not within 1 to 5"),
        ((1, 2, 3), "not lines of user, item, rating and time"),
        ((1, 2, "x", 0), "not lines of user, item, rating and time"),
    ],
)
def test_what_is_no_rating_is_named(tmp_path, line, message):
    write(tmp_path, (1, 2, 3, 0), line)
    with pytest.raises(DataError, match=message):
        read(tmp_path, "train")


def test_gradients_without_operators_are_paddles():
    import paddle
    from recommender_model import Factors

    paddle.seed(0)
    model = Factors(items=6, factors=3, decay=0.1)
    rng = np.random.default_rng(0)
    batch = {"item": np.array([1, 4, 4, 6]), "y": rng.normal(size=4).astype("float32"),
             "known": rng.normal(size=(4, 2)).astype("float32")}  # fmt: skip
    learned = model.learner(batch)(batch)
    fast = {name: each.grad.numpy().copy() for name, each in model.named_parameters()}
    model.clear_gradients()
    loss, metrics = model.loss({name: paddle.to_tensor(rows) for name, rows in batch.items()})
    loss.backward()
    for name, each in model.named_parameters():
        slow = np.zeros(each.shape, "float32")
        if each.grad.is_selected_rows():
            np.add.at(slow, np.asarray(each.grad.rows()), np.asarray(each.grad.get_selected_rows().get_tensor()))
        else:
            slow = each.grad.numpy()
        np.testing.assert_allclose(fast[name], slow, rtol=1e-5, atol=1e-6)
    assert {name: pytest.approx(pair, rel=1e-5) for name, pair in metrics.items()} == learned


ARGUMENTS = ["--rounds", 12, "--sample-num", 10, "--eval-every", 6, "--checkpoint-every", 2, "--items", 300]


@pytest.mark.slow
def test_private_factors_on_three_ranks_survive_a_kill(tmp_path):
    """The same bits as an undisturbed run: killed when the checkpoint of the fourth round is there."""
    make_data.make("recommender", tmp_path / "data", users=40)
    command = [PAGE, tmp_path / "data", *ARGUMENTS, "--shards", 1, "--output"]
    run(*command, tmp_path / "whole", ranks=3)
    with start(*command, tmp_path / "cut", ranks=3) as process:
        try:
            wait_until(process, (tmp_path / "cut" / "checkpoints" / "step-00000004.ckpt").is_file)
        finally:
            kill_all(process)
    shutil.rmtree(tmp_path / "cut" / "params" / "private", ignore_errors=True)
    run(*command, tmp_path / "cut", "--resume", tmp_path / "cut", ranks=3)
    assert_same_record(tmp_path / "cut", tmp_path / "whole")
    assert not any(name.startswith("user_") for name in params(tmp_path / "cut"))
    assert {frozenset(each) for each in private(tmp_path / "cut").values()} == {frozenset(["user_factor", "user_bias"])}
