"""Users who are tested in one go: each gets what it would get alone, and nothing of the others."""

import math

import numpy as np
import paddle
import pytest
from messy_task import MessyTrainer
from one_shard import DAY, SIZES, OneShard
from rows_task import RowsTrainer
from tiny_task import CLASSES, FEATURES

from protos.errors import BadInput
from scheduler.rules.samplers import Round
from scheduler.state.rounds import Share
from simulator.shards import jobs
from trainer import FineTune, TaskError
from trainer.side_by_side import evaluate_rows


def close(one, other):
    """Whether metrics by uid are equal but for rounding; counts are equal."""
    assert list(one) == list(other)
    for uid, metrics in other.items():
        assert set(one[uid]) == set(metrics)
        for name, (total, count) in metrics.items():
            assert one[uid][name] == (pytest.approx(total, rel=1e-6, abs=1e-6), count)
    return True


def test_side_by_side_each_user_gets_what_its_examples_say(tmp_path):
    """With all parameters 0 each class has a third: a loss of log 3 an example, and class 0 is the guess."""
    made = OneShard(tmp_path, RowsTrainer(batch_size=4))
    for value in made.shard._memory.params.arrays.values():
        value[...] = 0
    found = made.test("bdfeca", [2, 3, 1])
    assert list(found) == list("bdfeca")
    for uid, size in SIZES.items():
        labels = made.shard._client.get_data_by_uid(uid, DAY, "test")["y"]
        assert found[uid]["loss"] == (pytest.approx(size * math.log(3), rel=1e-6), size)
        assert found[uid]["top1"] == ((labels == 0).sum(), size)


def test_in_groups_and_one_by_one_metrics_are_the_same_but_for_rounding(tmp_path):
    made = OneShard(tmp_path, RowsTrainer(batch_size=4))
    assert made.schema.together == 24
    assert close(made.test("bdfeca", [6]), made.test("bdfeca"))


def test_a_group_gives_the_same_bits_in_whatever_order_groups_come(tmp_path):
    made = OneShard(tmp_path, RowsTrainer(batch_size=4))
    one = made.test("bdfeca", [2, 4])
    assert made.test("fecabd", [4, 2]) == one
    assert made.test("feca", [4]) == {uid: one[uid] for uid in "feca"}


def test_examples_of_two_forms_and_more_than_a_block(tmp_path):
    """500 examples of one form around three of another: each user has its own."""
    trainer = RowsTrainer()
    model = trainer.make_model()

    class User:
        def __init__(self, count, **more):
            rng = np.random.default_rng(count)
            self.examples = {
                "x": rng.normal(size=(count, FEATURES)).astype("float32"),
                "y": rng.integers(0, CLASSES, count),
                **more,
            }

    users = [User(250), User(3, z=np.zeros((3, 2))), User(249), User(1)]
    found = trainer.evaluate_users(model, users)
    expected = [trainer.evaluate_user(model, user.examples, user) for user in users]
    assert close(dict(enumerate(found)), dict(enumerate(expected)))


def test_large_examples_go_through_the_model_a_few_at_a_time():
    """Of 4 MiB 16 have 256 KiB each, and more are taken of smaller ones; of larger ones no fewer."""
    seen = []

    class Model:
        def example_metrics(self, batch):
            seen.append(len(batch["x"]))
            return {"loss": (batch["x"][:, 0], 1)}

    for floats, expected in ((65536, [16, 4]), (2**17, [16, 4]), (2**16 - 2**13, [18, 2]), (1, [20])):
        found = evaluate_rows(Model(), [{"x": np.ones((20, floats), "float32")}], dict)
        assert found == [{"loss": (20.0, 20.0)}]
        assert seen == expected
        seen.clear()


class Spoils(RowsTrainer):
    """Its test in one go changes a parameter of each kind when a user is among them; alone it does not."""

    def __init__(self, uid, name, how):
        super().__init__(batch_size=4)
        self.uid, self.name, self.how, self.alone = uid, name, how, []

    def make_model(self):
        from rows_model import LargeRowsModel

        return LargeRowsModel(FEATURES, CLASSES)

    def evaluate_user(self, model, examples, user):
        self.alone = [*self.alone, user.uid]
        return super().evaluate_user(model, examples, user)

    def tests_together(self, model, private):
        return 24

    def evaluate_users(self, model, users):
        if self.uid in [user.uid for user in users]:
            parameter = dict(model.named_parameters())[self.name]
            if self.how == "fails":
                raise RuntimeError("a mistake in a test of several")
            parameter.set_value(parameter + 1.0)
        return [super(Spoils, self).evaluate_user(model, user.examples, user) for user in users]


@pytest.mark.parametrize("name", ["out.bias", "unused.weight"])
def test_a_group_whose_test_changes_the_model_is_tested_one_by_one(tmp_path, name):
    """f is in the second of three groups; what it changes reaches neither its neighbours nor the third group."""
    made = OneShard(tmp_path, Spoils("f", name, "changes"))
    expected = made.test("bdfeca")
    made.shard._is.trainer.alone = []
    assert made.test("bdfeca", [2, 2, 2]) == expected
    assert made.shard._is.trainer.alone == ["f", "e"]
    # Whoever comes before, a group is treated alike.
    made.shard._is.trainer.alone = []
    assert made.test("cafebd", [2, 2, 2]) == {uid: expected[uid] for uid in "cafebd"}
    assert made.shard._is.trainer.alone == ["f", "e"]


def test_a_group_that_fails_though_none_of_its_users_does_names_them(tmp_path):
    made = OneShard(tmp_path, Spoils("f", "out.bias", "fails"))
    with pytest.raises(RuntimeError, match="a mistake in a test of several"):
        made.test("bdfeca", [2, 4])
    assert made.shard.where == f"date {DAY}, round 1, 4 users tested in one go: 'f', 'e', 'c', ..."
    assert made.shard._is.trainer.alone == list("feca")


class Picky(RowsTrainer):
    """Cannot test one of the users, alone or among others."""

    def tests_together(self, model, private):
        return 24

    def evaluate_user(self, model, examples, user):
        if (examples["x"] == 100.0).any():
            raise TaskError("an example that cannot be")
        return super().evaluate_user(model, examples, user)

    def evaluate_users(self, model, users):
        return [self.evaluate_user(model, user.examples, user) for user in users]


def test_a_user_that_fails_is_named(tmp_path):
    made = OneShard(tmp_path, Picky(batch_size=4))
    get = made.shard._client.get_data_by_uid

    def with_a_mistake(uid, date, split):
        return {name: rows * 0 + 100 if uid == "e" else rows for name, rows in get(uid, date, split).items()}

    made.shard._client.get_data_by_uid = with_a_mistake
    with pytest.raises(TaskError, match="an example that cannot be"):
        made.test("bdfeca", [2, 4])
    assert made.shard.where == f"date {DAY}, round 1, uid 'e'"


class Odd(RowsTrainer):
    """Answers what it must not."""

    answer = None

    def evaluate_users(self, model, users):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, r"Odd\.evaluate_users must return a list of metrics, one for each of 2 users, not None"),
        ([{}], r"one for each of 2 users, not 1"),
        ([{}, {"loss": 3}], r"Odd\.evaluate_users must return metrics as name -> \(sum, count\), not \{'loss': 3\}"),
    ],
)
def test_what_a_test_of_several_must_give(tmp_path, answer, told):
    trainer = Odd(batch_size=4)
    trainer.answer = answer
    with pytest.raises(BadInput, match=told):
        OneShard(tmp_path, trainer).test("bd", [2])


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"loss": (paddle.zeros([3]), 1)}, r"it returns shape \[3\]"),
        ({"loss": 1.0}, r"name -> \(sums, counts\), 21 numbers each for a batch of 21 examples"),
        (None, "RowsModel.example_metrics must return"),
    ],
)
def test_what_example_metrics_must_give(tmp_path, metrics, told):
    made = OneShard(tmp_path, RowsTrainer(batch_size=4))
    made.shard._model.model.example_metrics = lambda batch: metrics
    with pytest.raises(TaskError, match=told):
        made.shard._is.trainer.evaluate_users(made.shard._model.model, users_of(made, "bd"))


def users_of(made, uids):
    at = Round(0, DAY, 1, 0)
    examples = {uid: made.shard._client.get_data_by_uid(uid, DAY, "test") for uid in uids}
    return made.shard._turns.bring(at, examples, DAY)


# -- who is tested by itself ---------------------------------------------------------


class OwnTest(RowsTrainer):
    """With a test of its own, which a pass over rows would not be."""

    def evaluate_user(self, model, examples, user):
        return {"loss": (1.0, 1.0)}


class OwnForward(RowsTrainer):
    """With a forward of its own."""

    def forward(self, model, batch, state):
        return super().forward(model, batch, state)


class OwnHold(RowsTrainer):
    """With examples that are made of all of a user's."""

    def hold(self, examples):
        return super().hold({**examples, "x": examples["x"] - examples["x"].mean(0)})


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        (OwnTest, {}),
        (OwnHold, {}),
        (OwnForward, {}),
        (MessyTrainer, {}),
        (RowsTrainer, {"private": ("out.bias",)}),
        (RowsTrainer, {"algorithm": FineTune()}),
    ],
)
def test_users_are_tested_one_by_one_unless_all_is_known_to_allow_more(tmp_path, trainer, settings):
    assert OneShard(tmp_path, trainer(batch_size=4), **settings).schema.together == 0


def test_a_loss_of_a_subclass_is_not_tested_by_the_rows_of_the_class_above():
    from rows_model import RowsModel

    class OwnLoss(RowsModel):
        def loss(self, batch):
            loss, metrics = super().loss(batch)
            return 2 * loss, metrics

    class OwnBoth(OwnLoss):
        def example_metrics(self, batch):
            return super().example_metrics(batch)

    trainer = RowsTrainer()
    together = [trainer.tests_together(kind(FEATURES, CLASSES), ()) for kind in (RowsModel, OwnLoss, OwnBoth)]
    assert together == [24, 0, 24]


def test_without_rows_evaluate_users_tests_one_after_another(tmp_path):
    made = OneShard(tmp_path, OwnTest(batch_size=4))
    users = users_of(made, "bd")
    assert made.shard._is.trainer.evaluate_users(made.shard._model.model, users) == [{"loss": (1.0, 1.0)}] * 2


class Many(RowsTrainer):
    """Says how many examples it tests in one go."""

    def tests_together(self, model, private):
        return self.most


@pytest.mark.parametrize("most", [-1, 2.0, None, True])
def test_how_many_examples_are_tested_in_one_go_is_a_number(tmp_path, most):
    trainer = Many(batch_size=4)
    trainer.most = most
    with pytest.raises(BadInput, match=r"Many\.tests_together must return how many examples .* an int from 0, not"):
        OneShard(tmp_path, trainer)


# -- what they see -------------------------------------------------------------------


class Sees(RowsTrainer):
    """Tells what users it was given, and what the model and the generators hold."""

    def tests_together(self, model, private):
        return 24

    def evaluate_users(self, model, users):
        training = [len(user.training["y"]) for user in users]
        own = [float(user.private["out.bias"].sum()) for user in users]
        drawn = [float(user.rng.random()) for user in users]
        self.seen = [float(np.random.random()), training, own, drawn, model.out.bias.numpy().tolist(), model.training]
        return [{"loss": (0.0, 1.0)} for _ in users]


def test_users_bring_what_is_theirs_and_the_model_holds_none_of_it(tmp_path):
    made = OneShard(tmp_path, Sees(batch_size=4, lr=0.1), ("out.bias",))
    made.do(jobs.TrainShare, "ab")
    made.step = 1
    kept = {uid: np.frombuffer(made.private_of(uid)["out.bias"], "float32") for uid in "ab"}
    made.test("abc", [3])
    shown, training, own, drawn, bias, mode = made.shard._is.trainer.seen
    assert training == [3, 12, 4]
    assert own == [float(kept["a"].sum()), float(kept["b"].sum()), 0.0]
    assert np.isnan(bias).all()
    assert mode is False
    assert len(set(drawn)) == 3
    made.test("edabc", [2, 3])
    again = made.shard._is.trainer.seen
    assert (again[0], again[3]) == (shown, drawn)
    assert {uid: np.frombuffer(made.private_of(uid)["out.bias"], "float32").tobytes() for uid in "ab"} == {
        uid: value.tobytes() for uid, value in kept.items()
    }


def test_a_user_cannot_write_to_what_others_start_from(tmp_path):
    made = OneShard(tmp_path, Sees(batch_size=4), ("out.bias",))
    for user in users_of(made, "ab"):
        with pytest.raises(ValueError, match="read-only"):
            user.private["out.bias"][0] = 1.0


def test_groups_are_named_in_errors_and_notes():
    share = Share(tuple("abcdef"), (1,) * 6, groups=(1, 4, 1))
    job = jobs.EvaluateShare(Round(0, DAY, 2, 2), share, DAY)
    assert jobs.describe_part(job, 0) == f"date {DAY}, round 2, uid 'a'"
    assert jobs.describe_part(job, 1) == f"date {DAY}, round 2, 4 users tested in one go: 'b', 'c', 'd', ..."
    assert jobs.describe_part(job, 2) == f"date {DAY}, round 2, uid 'f'"
    assert jobs.describe_again(job, 1) == "1 group of users is tested again"
    assert jobs.describe_again(job, 2) == "2 groups of users are tested again"
