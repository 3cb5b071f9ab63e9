"""What algorithms refuse, and users, models and trainers at the edge of what they take."""

import numpy as np
import paddle
import pytest
from net_oracle import CLASSES, DAY, DAYS, FEATURES, NEXT, WIDTH, NetTrainer
from paddle import nn
from shard_rounds import ShardRounds, made_up

from model import Classifier
from protos.errors import BadInput
from scheduler import ALGORITHMS, Algorithm
from trainer import TrainerBase, add_metrics, algorithms

ALL = sorted(set(ALGORITHMS) - {"fedbn"})
WITH_HEAD = ["fedala", "fedbabu", "fedper", "fedproto", "fedrep", "lgfedavg", "moon"]
NUMBERS = {"epochs": 2, "batch_size": 4, "lr": 0.1}


def run_of(folder, trainer, algorithm, days=DAYS, **more):
    folder.mkdir(exist_ok=True)
    return ShardRounds(folder, trainer, algorithm, days, **more)


class Linear(NetTrainer):
    def make_model(self):
        return Classifier(nn.Linear(FEATURES, CLASSES))


@pytest.mark.parametrize("name", WITH_HEAD)
def test_a_model_without_layers_below_its_head_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="is all that the model trains: there is no representation below it"):
        run_of(tmp_path, Linear(**NUMBERS), ALGORITHMS.make(name))


def test_a_model_without_batch_norm_is_refused_by_fedbn(tmp_path):
    with pytest.raises(BadInput, match="the model has no batch norm layer"):
        run_of(tmp_path, NetTrainer(**NUMBERS), algorithms.FedBN())


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITH_HEAD])
def test_the_others_take_a_model_of_one_layer(tmp_path, name):
    run = run_of(tmp_path, Linear(**NUMBERS), ALGORITHMS.make(name))
    run.train(DAY, "ab")
    assert set(run.test(NEXT, NEXT)) == set("abcfg")


class OwnLoop(NetTrainer):
    """Its own training, which tells as much as is asked of it."""

    tells = ("before_batch", "before_step")

    def train_user(self, model, examples, user):
        optimizer, n, totals = self.make_optimizer(model), len(examples["y"]), {}
        for _ in range(self.epochs):
            for i in range(0, n, self.batch_size):
                batch = self.hold({name: rows[i : i + self.batch_size] for name, rows in examples.items()})

                def again(backward, batch=batch):
                    loss, _ = model.loss(batch)
                    if backward:
                        loss.backward()

                if "before_batch" in self.tells:
                    user.before_batch(batch, again)
                loss, metrics = model.loss(batch)
                loss.backward()
                add_metrics(totals, metrics)
                if "before_step" in self.tells:
                    user.before_step()
                optimizer.step()
                optimizer.clear_grad()
        return totals


class NoBatch(OwnLoop):
    tells = ("before_step",)


class Silent(OwnLoop):
    tells = ()


def play(run):
    run.train(DAY, "ab")
    run.train(DAY, "bc")
    run.test(NEXT, NEXT)
    return run.params


@pytest.mark.parametrize("name", ALL)
def test_a_loop_of_the_trainers_own_that_tells_of_its_steps_is_as_good(tmp_path, name):
    ours, theirs = (
        play(run_of(tmp_path / kind.__name__, kind(**NUMBERS), ALGORITHMS.make(name))) for kind in (NetTrainer, OwnLoop)
    )
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, atol=1e-6)


NEEDS_BATCH = {"apfl": "APFL()", "moon": "Moon()", "pfedme": "PFedMe()", "perfedavg": "PerFedAvg(hessian=True)",
               "fedproto": "FedProto()", "scaffold": "Scaffold(option=1)"}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS_BATCH)
def test_a_loop_that_does_not_tell_of_its_batches_is_named(tmp_path, name):
    algorithm = eval(NEEDS_BATCH[name], vars(algorithms))
    run = run_of(tmp_path, NoBatch(**NUMBERS), algorithm)
    with pytest.raises(BadInput, match=r"uid '.': .* but NoBatch.train_user never calls user.before_batch\(\)"):
        play(run)


@pytest.mark.parametrize("name", ["fedprox", "fednova", "scaffold", "feddyn", "ditto", "apfl", "pfedme", "perfedavg"])
def test_a_loop_that_does_not_tell_of_its_steps_is_named(tmp_path, name):
    run = run_of(tmp_path, Silent(**NUMBERS), ALGORITHMS.make(name))
    with pytest.raises(BadInput, match=r"uid '.': .* but Silent.train_user never calls user.before_step\(\)"):
        play(run)


class PassesByHead(Classifier):
    """Works with the parameters of its head, and never calls it."""

    def forward(self, x):
        first, squash, last = self.layers
        return squash(first(x)) @ last.weight + last.bias


class PassesBy(NetTrainer):
    def make_model(self):
        return PassesByHead(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


@pytest.mark.parametrize("name", ["moon", "fedproto"])
def test_a_head_that_is_never_called_is_named(tmp_path, name):
    with pytest.raises(BadInput, match=r"uid '.': .*'layers.2'"):
        play(run_of(tmp_path, PassesBy(**NUMBERS), ALGORITHMS.make(name)))


@pytest.mark.parametrize("name", ALL)
def test_private_parameters_beside_stay_with_the_user(tmp_path, name):
    """What is private anyway is kept for each user, and is not what others have."""
    run = run_of(tmp_path, NetTrainer(**NUMBERS), ALGORITHMS.make(name), private=("layers.0.bias",))
    play(run)
    assert "layers.0.bias" not in run.params
    kept = {uid: run.kept(uid)["layers.0.bias"].tobytes() for uid in "abc"}
    assert len(set(kept.values())) == 3


@pytest.mark.parametrize(
    ("name", "alike"), [("local", False), ("fedper", False), ("lgfedavg", True), ("fedproto", True)]
)
def test_representations_that_are_to_fit_together_begin_alike(tmp_path, name, alike):
    run = run_of(tmp_path, NetTrainer(**NUMBERS), ALGORITHMS.make(name))
    one, other = run.start_of("a"), run.start_of("b")
    drawn = [key for key in one if key.endswith("weight")]
    assert drawn
    for key in drawn:
        assert np.array_equal(one[key], other[key]) == alike
        assert one[key].any()


def test_dittos_own_model_has_private_parameters_of_its_own(tmp_path):
    """With lam = 0 it is local training, whatever is private."""
    found = {}
    for private in ((), ("layers.0.bias",)):
        run = run_of(tmp_path / str(len(private)), NetTrainer(**NUMBERS), algorithms.Ditto(lam=0.0), private=private)
        run.train(DAY, "b")
        run.train(DAY, "b")
        found[private] = run.kept("b")
    own = {name for name in found[()] if name.startswith("state/")}
    for name in own:
        np.testing.assert_array_equal(found[()][name], found["layers.0.bias",][name])


class TellsBias(NetTrainer):
    """Its tests tell how far the head's bias is from zero, where it begins."""

    def evaluate_user(self, model, examples, user):
        return {"loss": (1.0, 1.0), "bias": (float(abs(model.layers[2].bias.numpy()).sum()), 1.0)}


@pytest.mark.parametrize("name", ["apfl", "pfedme", "ditto", "perfedavg", "finetune"])
def test_a_new_users_own_model_has_its_private_parameters_as_it_trained_them(tmp_path, name):
    run = run_of(tmp_path, TellsBias(**NUMBERS), ALGORITHMS.make(name), private=("layers.2.*",))
    run.train(DAY, "ab")
    tests = run.test(NEXT, NEXT)
    assert tests["f"]["bias"] == tests["g"]["bias"] == 0
    assert tests["f"]["personal_bias"] > 0
    # It has nothing to train on.
    assert tests["g"]["personal_bias"] == 0


def columns(days):
    """The labels as a column."""
    return {
        day: {split: {uid: {**u, "y": u["y"][:, None]} for uid, u in users.items()} for split, users in splits.items()}
        for day, splits in days.items()
    }


@pytest.mark.parametrize("name", ["fedproto", "moon", "qfedavg"])
def test_labels_may_stand_in_a_column(tmp_path, name):
    one, other = (
        play(run_of(tmp_path / str(number), NetTrainer(**NUMBERS), ALGORITHMS.make(name), days))
        for number, days in enumerate((DAYS, columns(DAYS)))
    )
    for key, value in one.items():
        np.testing.assert_array_equal(other[key], value)


def test_fedproto_says_which_array_holds_no_classes(tmp_path):
    run = run_of(tmp_path / "a", NetTrainer(**NUMBERS), algorithms.FedProto(label="class"))
    with pytest.raises(BadInput, match=r"uid 'a' has no 'class': label='...' is one of x, y"):
        run.train(DAY, "a")
    run = run_of(tmp_path / "b", NetTrainer(**NUMBERS), algorithms.FedProto(label="x"))
    with pytest.raises(BadInput, match=r"uid 'a': 'x' is float32\[1, 6\], where fedproto needs one integer"):
        run.train(DAY, "a")


def test_a_class_that_nobody_has_has_no_prototype_and_is_never_guessed(tmp_path):
    few = made_up({"a": 9, "b": 8}, labels=lambda y: np.minimum(y, 1))
    days = {DAY: {"train": few, "test": {}}, NEXT: {"train": few, "test": made_up({"a": 5, "b": 4, "n": 6})}}
    run = run_of(tmp_path, NetTrainer(**NUMBERS), algorithms.FedProto(), days)
    run.train(DAY, "ab")
    run.train(DAY, "ab")
    assert run.params["prototypes/1"].any()
    assert not run.params["prototypes/2"].any()
    for uid, metrics in run.test(NEXT, NEXT).items():
        never = np.mean(days[NEXT]["test"][uid]["y"] == 2)
        assert metrics["personal_top1"] <= 1 - never + 1e-9


class Within(Algorithm):
    """Asks within a training for what belongs before it or after it."""

    def __init__(self, what):
        self.what = what

    def train(self, local):
        ask = {
            "test": local.evaluate, "train": local.train, "features": lambda: local.features(examples=local.examples)
        }  # fmt: skip
        return local.train(correct=ask[self.what])


@pytest.mark.parametrize(
    ("what", "told"), [("test", "a test"), ("train", "another training"), ("features", "features of examples")]
)
def test_tests_within_a_training_are_refused(tmp_path, what, told):
    run = run_of(tmp_path, NetTrainer(**NUMBERS), Within(what))
    with pytest.raises(BadInput, match=f"uid 'a': the algorithm asks for {told} within a training"):
        run.train(DAY, "a")


class Momentum(NetTrainer):
    """An optimizer that goes on with a gradient of zero."""

    def make_optimizer(self, model):
        return paddle.optimizer.Momentum(self.lr, 0.9, parameters=model.parameters(), weight_decay=0.1)


class Still(Algorithm):
    """Moves for a step, and passes the others by."""

    def train(self, local):
        seen = []

        def correct():
            seen.append(local.params["layers.0.weight"].copy())
            if len(seen) > 1:
                local.skip()

        metrics = local.train(correct=correct)
        seen.append(local.params["layers.0.weight"])
        first, second, *rest = seen
        assert not np.array_equal(first, second)
        for later in rest:
            np.testing.assert_array_equal(later, second)
        return metrics


@pytest.mark.parametrize("trainer", [NetTrainer, Momentum])
def test_a_step_that_is_passed_by_leaves_parameters_alone_whatever_the_optimizer_remembers(tmp_path, trainer):
    run_of(tmp_path, trainer(**NUMBERS), Still()).train(DAY, "b")


class Convolutions(TrainerBase):
    """A convolution and what follows it are one where they are done fast."""

    def make_model(self):
        return Classifier(
            nn.Conv2D(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2D(2), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(),
            nn.Linear(8, CLASSES),
        )  # fmt: skip


@pytest.mark.parametrize("name", ["moon(mu=3.0)", "fedproto"])
def test_features_are_those_of_the_model_with_fast_convolutions_too(tmp_path, name):
    rng = np.random.default_rng(0)
    users = {uid: {"x": rng.normal(size=(9, 1, 12, 12)).astype("float32"), "y": rng.integers(0, 3, 9)} for uid in "ab"}
    days, params = {DAY: {"train": users, "test": {}}}, []
    for fast in (True, False):
        trainer = Convolutions(**NUMBERS)
        trainer.fast_layers = fast
        run = run_of(tmp_path / str(fast), trainer, ALGORITHMS.make(name), days)
        for _ in range(3):
            run.train(DAY, "ab")
        params.append(run.params)
    for key, value in params[0].items():
        np.testing.assert_allclose(params[1][key], value, atol=1e-5)


def test_qfedavg_says_that_a_loss_is_too_large(tmp_path):
    run = run_of(tmp_path, NetTrainer(**NUMBERS), algorithms.QFedAvg(q=1e6))
    run.model.need_params()["layers.2.bias"][:] = [9, -9, 0]
    run._here.arrays["layers.2.bias"][:] = [9, -9, 0]
    with pytest.raises(BadInput, match=r"its loss, .*, to the power of 1e\+06 is too large"):
        run.train(DAY, "b")
