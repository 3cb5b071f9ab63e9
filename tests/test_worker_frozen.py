"""Frozen parameters: nobody changes them, they neither travel nor are summed, and are the same everywhere."""

import shutil

import numpy as np
import pytest
from frozen_model import FrozenModel
from frozen_task import FrozenTrainer
from one_shard import DAY, OneShard
from running import ROOT, assert_same_record, params, run
from tiny_task import CLASSES, FEATURES, make_data

from protos.errors import BadInput
from scheduler.rules.samplers import AllTestSampler, UniformSampler
from scheduler.rules.server_optimizers import FedAvg
from scheduler.state.checkpoints import Snapshot
from scheduler.state.frozen import digest_of, split_frozen
from scheduler.state.global_model import GlobalModel
from scheduler.state.rounds import Rules
from simulator.running.initial_model import take_initial
from simulator.shards import jobs
from simulator.worker.model_state import ModelState

TASK = ROOT / "tests" / "frozen_task.py"
SHARED = {"down.weight", "up.weight"}
FROZEN = {"hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "norm._mean", "norm._variance", "out.weight",
          "out.bias"}  # fmt: skip


@pytest.fixture
def shard(tmp_path):
    return lambda trouble="": OneShard(tmp_path, FrozenTrainer(trouble, "b", batch_size=4))


def test_what_is_frozen_is_neither_shared_nor_private_and_takes_no_gradients(shard):
    made = shard()
    schema = made.schema
    assert set(schema.shared) == set(schema.arrays) == SHARED
    assert set(schema.frozen) == FROZEN
    assert not schema.private
    model = made.shard._model
    assert set(model.trained) == SHARED
    assert all(model.model.state_dict()[name].stop_gradient for name in FROZEN)


@pytest.mark.parametrize("trouble", ["", "write", "replace"])
def test_what_a_turn_makes_of_it_is_put_back(shard, trouble):
    made = shard(trouble)
    before, tested = made.shard._model.frozen_values(), made.test("abcdef")
    _, sums = made.do(jobs.TrainShare, "abcdef")
    assert set(sums) == SHARED
    assert all(total.any() for total in sums.values())
    assert digest_of(made.shard._model.frozen_values()) == digest_of(before) == made.schema.frozen_digest
    assert {name: made.shard._model.read(name).tobytes() for name in FROZEN} == {n: before[n].tobytes() for n in FROZEN}
    assert made.test("abcdef") == tested


def test_no_user_sees_what_another_made_of_it(shard):
    made = shard("write")
    alone, _ = made.do(jobs.TrainShare, "c")
    among, _ = made.do(jobs.TrainShare, "abc")
    assert among["c"] == alone["c"]


def test_a_turn_that_trains_it_ends_the_run(shard):
    with pytest.raises(BadInput, match=r"lets 'out\.weight' take gradients, which the model names frozen"):
        shard("thaw").do(jobs.TrainShare, "ab")


def test_a_pattern_of_nothing_and_a_name_that_is_private_too_are_refused():
    model = FrozenModel(FEATURES, CLASSES)
    with pytest.raises(BadInput, match=r"'norm.weight' is private and frozen.*--private"):
        ModelState(model, ("norm.weight",))
    model.frozen = ("bass.*",)
    with pytest.raises(BadInput, match=r"frozen pattern 'bass.\*' matches no parameter"):
        ModelState(model, ())


def test_a_shard_that_makes_other_values_is_refused(shard):
    made = shard()
    given = {name: value + 1 for name, value in made.shard._model.frozen_values().items()}
    made.shard.run(jobs.StartPrivate({}, given, digest_of(given)))
    assert digest_of(made.shard._model.frozen_values()) == digest_of(given)
    assert np.array_equal(made.shard._model.read("out.bias"), given["out.bias"])
    with pytest.raises(BadInput, match="frozen parameters differ from process to process"):
        made.shard.run(jobs.StartPrivate({}, {}, made.schema.frozen_digest))


def test_a_digest_tells_names_shapes_dtypes_and_bits_apart():
    one = np.arange(4, dtype="float32")
    others = [{"w": one}, {"v": one}, {"w": one.reshape(2, 2)}, {"w": one.astype("float64")}, {"w": one * -1}, {}]
    assert len({digest_of(each) for each in others}) == len(others)
    assert digest_of({"a": one, "b": one * 2}) == digest_of({"b": one * 2, "a": one})


def test_a_file_of_init_has_all_that_is_frozen_and_all_or_nothing_of_the_rest(shard, tmp_path):
    schema = shard().schema
    full = {name: np.full(spec.shape, 2, "float32") for name, spec in {**schema.shared, **schema.frozen}.items()}
    into = {name: np.zeros(spec.shape, "float32") for name, spec in schema.shared.items()}

    def take(values):
        np.savez(tmp_path / "init.npz", **values)
        return take_initial(tmp_path / "init.npz", schema, into)

    private, frozen = take({name: full[name] for name in FROZEN})
    assert not private
    assert set(frozen) == FROZEN
    assert not into["up.weight"].any()
    assert set(take(full)[1]) == FROZEN
    assert (into["up.weight"] == 2).all()
    for missing in ("norm._mean", "up.weight"):
        with pytest.raises(BadInput, match=f"names do not match the model's: {missing}"):
            take({name: value for name, value in full.items() if name != missing})
    with pytest.raises(BadInput, match=r"hidden\.bias, hidden\.weight"):
        take({name: value for name, value in full.items() if name in SHARED} | {"norm.weight": full["norm.weight"]})


def test_the_scheduler_gives_it_with_the_final_parameters_and_refuses_another_ones_checkpoint(rules):
    w, base = np.ones(2, "float32"), np.full(3, 5, "float32")
    assert split_frozen({"w": w, "base": base}, ["base"]) == ({"w": w}, {"base": base})
    with pytest.raises(BadInput, match="'base' is frozen, but its value has not come"):
        split_frozen({"w": w}, ["base"])
    model = GlobalModel(rules)
    model.set_initial({"w": w}, [], None, {"base": base})
    assert set(model.specs()) == {"w"}
    assert set(model.copies()) == {"w", "base"}
    snapshot = model.snapshot(1, DAY)
    model.close()
    assert set(snapshot.params) == {"w"}
    for held, right in ((base, True), (base + 1, False)):
        other = GlobalModel(rules)
        other.restore(Snapshot(1, DAY, {"w": w * 3}, {}, (), frozen=snapshot.frozen))
        if right:
            other.set_initial({"w": w}, [], None, {"base": held.copy()})
            assert other.copies()["w"].tolist() == [3, 3]
        else:
            with pytest.raises(BadInput, match="frozen parameters are not those of the checkpoint"):
                other.set_initial({"w": w}, [], None, {"base": held})
        other.close()


@pytest.fixture
def rules():
    return Rules(0, UniformSampler(1), AllTestSampler(), FedAvg(1.0))


ARGUMENTS = ["--rounds", 4, "--sample-num", 5, "--seed", 3, "--lr", 0.3, "--eval-every", 2, "--checkpoint-every", 2]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A run of two simulators, which take what is frozen from a file that only the first one reads."""
    folder = tmp_path_factory.mktemp("frozen")
    state = ModelState(FrozenModel(FEATURES, CLASSES), ())
    rng = np.random.default_rng(0)
    base = {name: np.abs(rng.normal(size=state.specs[name].shape)).astype("float32") for name in FROZEN}
    np.savez(folder / "base.npz", **base)
    data = make_data(folder / "data")
    command = [data, *ARGUMENTS, "--init", folder / "base.npz", "--output"]
    run(TASK, *command, folder / "run", "--shards", 1, "--no-shared-memory", ranks=3)
    return base, command, folder / "run"


def test_all_simulators_have_what_was_given_and_the_final_file_holds_it(given):
    base, _, output = given
    initial, final = params(output, "initial"), params(output)
    assert set(initial) == set(final) == SHARED | FROZEN
    for name in FROZEN:
        assert base[name].tobytes() == initial[name].tobytes() == final[name].tobytes()
    assert all((final[name] != initial[name]).any() for name in SHARED)


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits_on_other_ranks(given, tmp_path):
    _, command, expected = given
    output = tmp_path / "run"
    shutil.copytree(expected, output)
    (output / "params" / "final.npz").unlink()
    for path in (output / "checkpoints").glob("step-00000004*"):
        path.unlink()
    run(TASK, *command, output, "--shards", 2, "--resume", output)
    assert_same_record(output, expected)
