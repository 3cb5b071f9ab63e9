"""No user sees another through the model: not in training, not in tests, wherever and in whatever order they come."""

import numpy as np
import pytest
from messy_task import MessyTrainer
from one_shard import SIZES, OneShard
from running import ROOT, assert_same_record, params, private, run
from tiny_task import make_data

from protos.errors import BadInput
from simulator.shards import jobs

pytestmark = pytest.mark.usefixtures("forks")

MESSY = ROOT / "tests" / "messy_task.py"


@pytest.fixture(autouse=True)
def switches():
    """What the last user leaves of Paddle's own switches is put back before the next, and here none comes."""
    import paddle

    yield
    paddle.set_grad_enabled(True)
    paddle.set_default_dtype("float32")


def by_bytes(sums):
    return {name: value.tobytes() for name, value in sums.items()}


@pytest.mark.parametrize("private", [(), ("seen",), ("norm.*", "out.*"), ("hidden.*",)])
def test_a_users_numbers_do_not_depend_on_who_came_before(tmp_path, private):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one, other = (OneShard(tmp_path / name, MessyTrainer(batch_size=4), private) for name in ("one", "other"))
    for uids in ("fedcba", "abcdef"):
        assert one.do(jobs.EvaluateShare, uids)[0] == other.do(jobs.EvaluateShare, "cbfaed")[0]
        mine, total = one.do(jobs.TrainShare, uids)
        theirs, expected = other.do(jobs.TrainShare, "dacebf")
        assert mine == theirs
        assert by_bytes(total) == by_bytes(expected)
        for uid in SIZES:
            kept = one.private_of(uid)
            assert kept == other.private_of(uid)
            assert set(kept) == set(one.shard._model.private)
        one.step += 1
        other.step += 1


def test_a_test_alone_gives_what_it_gives_among_others(tmp_path):
    made = OneShard(tmp_path, MessyTrainer(batch_size=4))
    among, _ = made.do(jobs.EvaluateShare, "abcdef")
    for uid in SIZES:
        assert made.do(jobs.EvaluateShare, uid)[0] == {uid: among[uid]}


def test_a_test_does_not_stay_in_private_parameters(tmp_path):
    made = OneShard(tmp_path, MessyTrainer(batch_size=4), ("out.*",))
    made.do(jobs.TrainShare, "ab")
    made.step = 1
    before = {uid: made.private_of(uid) for uid in SIZES}
    first, _ = made.do(jobs.EvaluateShare, "abcdef")
    assert {uid: made.private_of(uid) for uid in SIZES} == before
    assert made.do(jobs.EvaluateShare, "abcdef")[0] == first


def test_one_after_another_the_shared_parameters_go_on_and_nothing_else(tmp_path):
    """b goes on from what a has made of the shared parameters and the buffer `seen`, and from its own private head."""
    made = OneShard(tmp_path, MessyTrainer(batch_size=4, lr=0.01), ("out.*",))
    metrics, _ = made.do(jobs.TrainInTurn, "abc")
    room = jobs.result_room(made.shard._memory.sums, {n: made.shard._model.specs[n] for n in made.shard._model.shared})
    whole = {name: value.copy() for name, value in room.items()}
    heads = {uid: made.private_of(uid) for uid in "abc"}
    made.do(jobs.TrainInTurn, "a")
    after_a = {name: value.copy() for name, value in room.items()}
    start = made.shard._memory.params.arrays
    assert not (start["seen"] == after_a["seen"]).any()
    assert not (whole["seen"] == after_a["seen"]).any()
    for name, value in after_a.items():
        start[name][...] = value
    again, _ = made.do(jobs.TrainInTurn, "bc")
    assert again == {uid: metrics[uid] for uid in "bc"}
    assert by_bytes(room) == by_bytes(whole)
    assert {uid: made.private_of(uid) for uid in "abc"} == heads


class Rarely(MessyTrainer):
    """Plain tests, but those of one user change a single number of a large parameter, or fail for it."""

    def evaluate_user(self, model, examples, user):
        weight = model.hidden.weight
        self.tested = [*getattr(self, "tested", []), user.uid]
        if self.trouble == "fail" and float(weight[0, 0]) == 100.0:
            raise RuntimeError("what another user left behind")
        metrics = super(MessyTrainer, self).evaluate_user(model, examples, user)
        if user.uid == self.trouble_uid:
            changed = weight.numpy()
            changed[0, 0] = 100.0
            weight.set_value(changed)
        return metrics


@pytest.mark.parametrize(("trouble", "tested"), [("", "abcdefcdef"), ("fail", "abcdcdef")])
def test_a_test_that_changes_a_large_parameter_now_and_then_is_noticed(tmp_path, trouble, tested):
    """A look after b, the eighth user of the shard, finds nothing; one at the end does, or d fails before."""
    made = OneShard(tmp_path, Rarely(trouble, "", batch_size=4))
    expected, _ = made.do(jobs.EvaluateShare, "abcdef")
    trainer = made.shard._is.trainer
    assert trainer.tested == list("abcdef")
    trainer.trouble_uid, trainer.tested = "c", []
    assert made.do(jobs.EvaluateShare, "abcdef")[0] == expected
    assert trainer.tested == list(tested)
    trainer.tested = []
    assert made.do(jobs.EvaluateShare, "cabdef")[0] == expected
    assert trainer.tested == list("cabdef")  # everything is put back before each from now on


def test_an_exception_of_a_test_itself_is_raised(tmp_path):
    made = OneShard(tmp_path, Rarely("fail", "", batch_size=4))
    made.shard._memory.params.arrays["hidden.weight"][0, 0] = 100.0
    with pytest.raises(RuntimeError, match="what another user left behind"):
        made.do(jobs.EvaluateShare, "ab")


class Rows(MessyTrainer):
    """Says that training changes no row of `hidden.weight`, and changes one for some users."""

    def __init__(self, changes):
        super().__init__(batch_size=4)
        self.changes = changes

    def touched_rows(self, examples):
        return {"hidden.weight": np.array([0])}

    def train_user(self, model, examples, user):
        row = self.changes.get(user.uid)
        if row is not None:
            model.hidden.weight.stop_gradient = True
            value = model.hidden.weight.numpy()
            value[row] += 1.0
            model.hidden.weight.set_value(value)
        return {}


@pytest.mark.parametrize(
    ("changes", "order", "told"),
    [
        ({"a": 3}, "abc", r"^uid 'a': touched_rows leaves out row 3 of 'hidden.weight'"),
        ({"b": 3}, "abc", r"^one of 3 users up to \['a', 'b', 'c'\]: touched_rows leaves out row 3 of 'hidden.weight'"),
        ({"c": 5}, "abc", r"^one of 3 users up to \['a', 'b', 'c'\]: touched_rows leaves out row 5 of 'hidden.weight'"),
        ({"a": 0, "b": 0, "c": 0}, "abc", None),
    ],
)
def test_touched_rows_are_held_to_for_every_user(tmp_path, changes, order, told):
    made = OneShard(tmp_path, Rows(changes))
    if told is None:
        made.do(jobs.TrainShare, order)
        return
    with pytest.raises(BadInput, match=told):
        made.do(jobs.TrainShare, order)


class NextRows(Rows):
    """Each user names the row of its own place in the alphabet; a changes that of b."""

    def touched_rows(self, examples):
        return {"hidden.weight": np.array([list(SIZES.values()).index(len(examples["y"]))])}


def test_a_row_that_a_later_user_names_is_looked_at_before_it_trains(tmp_path):
    made = OneShard(tmp_path, NextRows({"b": 2}))
    with pytest.raises(BadInput, match=r"one of 2 users up to \['a', 'b'\]: touched_rows leaves out row 2"):
        made.do(jobs.TrainShare, "abc")


# -- the whole program -------------------------------------------------------------


def check_placement(tmp_path, *flags):
    data = make_data(tmp_path / "data")
    arguments = ["--rounds", 3, "--sample-num", 6, "--eval-every", 1, "--seed", 3, "--lr", 0.1, "--batch-size", 4,
                 *flags]  # fmt: skip
    one, other = tmp_path / "one", tmp_path / "other"
    run(MESSY, data, *arguments, "--shards", 1, "--output", one)
    run(MESSY, data, *arguments, "--shards", 2, "--output", other, ranks=3)
    assert_same_record(other, one)
    return one


@pytest.mark.slow
def test_traces_of_users_do_not_reach_others_on_any_placement(tmp_path):
    output = check_placement(tmp_path, "--private", "seen")
    seen = {arrays["seen"].tobytes() for arrays in private(output).values()}
    assert len(seen) == len(private(output)) > 3
    assert bytes(24) not in seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [(), ("--private", "norm.*"), ("--mode", "centralized"), ("--mode", "centralized", "--private", "out.*")]
)
def test_traces_of_users_do_not_reach_others_in_any_mode(tmp_path, flags):
    output = check_placement(tmp_path, *flags)
    start, end = params(output, "initial"), params(output)
    assert not (start["seen"] == end["seen"]).any()
