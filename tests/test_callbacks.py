"""Callbacks decide after each round and test: a run that one has stopped is the run of so many rounds."""

import json
import sys
from pathlib import Path

import pytest
from running import assert_same_record, metrics, params, run, same
from test_state_round_state import NO_TIME, at
from tiny_task import TinyReader, TinyTrainer, make_data

import simulator
from protos.errors import BadInput
from scheduler.rules.metrics import UserResult
from scheduler.state.rounds import RoundRecord
from simulator import Settings
from simulator.callbacks import (
    CONTINUE,
    KEEP,
    TEST_NOW,
    BestParameters,
    Callback,
    EarlyStopping,
    RunInfo,
    TensorBoard,
    stop,
)
from simulator.callbacks.chain import CallbackChain

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def a_test(step, **values):
    """A test after so many rounds, of one user with one example."""
    pairs = {name: (value, 1.0) for name, value in values.items()}
    return RoundRecord("test", at(step, step), (UserResult("a", 1, 0.0, pairs),), 0.1, NO_TIME)


def a_round(step):
    return RoundRecord("train", at(step + 1, step), (UserResult("a", 1, 1.0, {"loss": (1.0, 1.0)}),), 0.1, NO_TIME)


def begun(callback, folder=Path(), result="top1", resumed=False):
    callback.on_begin(RunInfo(folder, result, resumed))
    return callback


def decided(callback, values, name="top1"):
    """Numbers (from 1) of the tests at which it wants to stop."""
    return [n for n, value in enumerate(values, 1) if callback.decide(a_test(n, **{name: value})).stop is not None]


# -- early stopping ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "values", "stops"),
    [
        ({"patience": 2}, [0.1, 0.3, 0.3, 0.2, 0.9], [4]),
        ({"patience": 1}, [0.1, 0.2, 0.1], [3]),
        ({"patience": 2, "mode": "min"}, [0.9, 0.5, 0.6, 0.4, 0.4, 0.5], [6]),
        # 0.3 is better than 0.25, but not by more than 0.1; 0.4 is.
        ({"patience": 2, "min_delta": 0.1}, [0.25, 0.3, 0.4, 0.45, 0.5], [5]),
        ({"patience": 2}, [float("nan"), float("nan"), 0.5], [2]),
    ],
)
def test_it_stops_when_a_metric_has_not_been_better_for_so_many_tests(arguments, values, stops):
    assert decided(begun(EarlyStopping(**arguments)), values) == stops


def test_it_says_why():
    assert begun(EarlyStopping(patience=1)).decide(a_test(1, top1=0.5)) == CONTINUE
    early = begun(EarlyStopping("auc", patience=2))
    for value in (0.75, 0.5):
        assert early.decide(a_test(1, auc=value)).stop is None
    assert early.decide(a_test(3, auc=0.5)).stop == "EarlyStopping: auc has not been better than 0.75 for 2 tests"


def test_rounds_are_no_tests_and_a_run_begins_anew():
    early = begun(EarlyStopping(patience=1))
    assert decided(early, [0.5, 0.4]) == [2]
    assert decided(begun(early), [0.1, 0.2]) == []
    assert early.decide(a_round(3)) == CONTINUE


def test_what_it_remembers_goes_on():
    before, after = begun(EarlyStopping(patience=2)), begun(EarlyStopping(patience=2))
    decided(before, [0.5, 0.4])
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert decided(after, [0.3]) == decided(before, [0.3]) == [1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EarlyStopping(patience=0), r"EarlyStopping\(patience=0\): at least 1"),
        (lambda: EarlyStopping(mode="up"), r"EarlyStopping\(mode='up'\): it is 'max' or 'min'"),
        (lambda: EarlyStopping(min_delta=-1.0), r"EarlyStopping\(min_delta=-1.0\): it must be finite and not negative"),
        (lambda: begun(BestParameters(), result=None), "BestParameters needs the name of a metric"),
        (lambda: begun(EarlyStopping("auc")).decide(a_test(1, top1=1.0)), "tests have no metric 'auc'; they have top1"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(BadInput, match=said):
        make()


# -- the chain -----------------------------------------------------------------------------


class Counter(Callback):
    """Counts what it decides on, and stops or keeps at some counts."""

    def __init__(self, stops=(), keeps=()):
        self.count, self.stops, self.keeps, self.told = 0, stops, keeps, []

    def decide(self, record):
        self.count += 1
        if self.count in self.stops:
            return stop(f"count {self.count}")
        return KEEP if self.count in self.keeps else CONTINUE

    def on_record(self, record, kept):
        self.told.append((record.phase, record.at.step, kept))

    def on_end(self, result):
        self.told.append(result)

    def close(self):
        self.told.append("closed")

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_the_first_reason_counts_and_anybody_may_keep():
    chain = CallbackChain([Counter(keeps=[1]), Counter(stops=[2]), Counter(stops=[2, 3])], saves=False)
    one, two, three = (chain.decide(a_round(step)) for step in range(3))
    assert (one.stop, one.keep) == (None, True)
    assert (two.stop, two.keep) == ("count 2", False)
    assert (three.stop, three.keep) == ("count 3", False)


def test_a_checkpoint_knows_what_was_remembered_after_its_round_and_not_after_the_test():
    chain = CallbackChain([Counter(), Counter()], saves=True)
    chain.decide(a_round(0))
    chain.decide(a_test(1, top1=1.0))
    chain.decide(a_round(1))
    chain.decide(a_round(2))
    assert chain.state_after(1) == {"Counter 1": {"count": 1}, "Counter 2": {"count": 1}}
    assert chain.state_after(2)["Counter 2"] == {"count": 3}
    other = Counter()
    CallbackChain([other], saves=True).restore(chain.state_after(3))
    assert other.count == 4


def test_what_has_not_changed_is_remembered_once():
    chain = CallbackChain([begun(EarlyStopping())], saves=True)
    for step in range(1000):
        chain.decide(a_round(step))
    assert len(chain._states) == 1
    assert chain.state_after(500) == chain.state_after(1000) == {"EarlyStopping 1": {"best": None, "worse": 0}}


# -- in a run ------------------------------------------------------------------------------


def play(data, output, *callbacks, ranks=1, **settings):
    given = {"rounds": 4, "sample_num": 6, "shards": 1, "eval_every": 1, "progress": "none", **settings}
    given = Settings(data=data, output=output, **given)
    return simulator.run(given, reader=TinyReader(), trainer=TinyTrainer(), callbacks=callbacks, ranks=ranks)


class StopAt(Callback):
    """Stops at the test after so many rounds of the run."""

    def __init__(self, rounds):
        self.rounds = rounds

    def decide(self, record):
        return stop("enough") if record.phase == "test" and record.at.step == self.rounds else CONTINUE


@pytest.fixture(scope="module")
def two_rounds(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "run"
    play(data, output, rounds=2, private=("out.bias",))
    return output


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=SLOW)])
def test_a_run_that_is_stopped_after_a_round_is_the_run_of_so_many_rounds(data, tmp_path, two_rounds, ranks):
    """Shards may be at the next round already, and have stored private parameters that do not count."""
    result = play(data, tmp_path / "run", StopAt(2), ranks=ranks, private=("out.bias",))
    assert result.stopped == "enough"
    assert_same_record(tmp_path / "run", two_rounds)
    assert same(result.params, params(two_rounds))
    assert result.metrics["round"] == [1, 1, 2, 2]


@SLOW
@pytest.mark.parametrize("every", [0, 2])
def test_a_checkpoint_that_is_due_at_the_stop_is_made_and_leads_to_the_same_end(data, tmp_path, two_rounds, every):
    """Private parameters are written by the simulator, in a thread of its own."""
    settings = {"private": ("out.bias",), "checkpoint_every": every}
    play(data, tmp_path / "run", StopAt(2), **settings)
    assert_same_record(tmp_path / "run", two_rounds)
    assert bool(list((tmp_path / "run").glob("checkpoints/*00002.ckpt"))) == bool(every)
    if every:
        assert play(data, None, StopAt(2), resume=tmp_path / "run", **settings).stopped == "enough"
        assert_same_record(tmp_path / "run", two_rounds)


@SLOW
def test_a_page_whose_callback_stops_it_is_complete(data, tmp_path, two_rounds):
    page = tmp_path / "page.py"
    page.write_text(PAGE)
    arguments = ["--rounds", 4, "--sample-num", 6, "--shards", 1, "--eval-every", 1, "--private", "out.bias"]
    done = run(page, data, *arguments, "--output", tmp_path / "run", ranks=2)
    assert done.stderr == ""
    assert "stopped by enough after round 2 of the run" in done.stdout
    assert "infer results: " in done.stdout
    assert_same_record(tmp_path / "run", two_rounds)


PAGE = """
from simulator import FLSimRoleMaker, Settings, SimulationFramework, parse_settings
from test_callbacks import StopAt
from tiny_task import TinyReader, TinyTrainer

if __name__ == "__main__":
    framework = SimulationFramework(FLSimRoleMaker(), parse_settings(Settings))
    framework.set_reader(TinyReader())
    framework.set_trainer(TinyTrainer())
    framework.add_callback(StopAt(2))
    framework.run()
"""


def test_the_best_parameters_are_those_of_a_run_that_ends_there(data, tmp_path, two_rounds):
    told = Counter()
    result = play(data, tmp_path / "run", BestParameters("loss", mode="min"), told)
    best = json.loads((tmp_path / "run" / "params" / "best.json").read_text())
    losses = result.metrics["loss"][1::2]  # of the tests, one after each round
    assert best == {"metric": "loss", "value": min(losses), "date": "20200102", "round": losses.index(min(losses)) + 1}
    assert same(params(tmp_path / "run", "best"), params(tmp_path / "run")) == (best["round"] == 4)
    assert [each[:2] for each in told.told[:4]] == [("train", 0), ("test", 1), ("train", 1), ("test", 2)]
    assert told.told[-2] is result
    assert told.told[-1] == "closed"


@SLOW
def test_kept_parameters_are_those_after_the_round(data, tmp_path):
    """Of the test after round 1, though the next rounds go on meanwhile."""
    told = Counter(keeps=[2])
    play(data, tmp_path / "four", told)
    play(data, tmp_path / "one", rounds=1)
    kept = [each[2] for each in told.told[:8] if each[2] is not None]
    assert len(kept) == 1
    assert same(kept[0], params(tmp_path / "one"))


class Interrupt(Callback):
    """Has the run fail at a test, once."""

    def __init__(self, rounds):
        self.rounds = rounds

    def decide(self, record):
        if record.phase == "test" and record.at.step == self.rounds:
            raise BadInput("lost")
        return CONTINUE


@SLOW
def test_early_stopping_goes_on_counting_after_a_resume(data, tmp_path):
    """Interrupted at the test after round 3, resumed after round 2 or 3: it stops where the whole run does."""
    worst = {"metric": "loss", "mode": "max", "patience": 3}
    whole = play(data, tmp_path / "whole", EarlyStopping(**worst), rounds=8, checkpoint_every=1)
    assert whole.stopped is not None
    last = whole.metrics["round"][-1]
    assert 3 < last < 8
    with pytest.raises(BadInput, match="lost"):
        play(data, tmp_path / "run", EarlyStopping(**worst), Interrupt(last - 1), rounds=8, checkpoint_every=1)
    resumed = play(
        data, None, EarlyStopping(**worst), rounds=8, checkpoint_every=1, resume=tmp_path / "run"
    )  # fmt: skip
    assert resumed.stopped == whole.stopped
    assert_same_record(tmp_path / "run", tmp_path / "whole")


class Broken(Callback):
    def decide(self, record):
        return 1 / 0

    def on_record(self, record, kept):
        raise AssertionError("it has no record")


@SLOW
def test_an_exception_in_a_callback_ends_the_run_with_its_traceback(data, tmp_path):
    with pytest.raises(simulator.FLError, match=r"the scheduler \(rank 0\) failed:[^$]*ZeroDivisionError"):
        play(data, tmp_path / "run", Broken())


@SLOW
def test_tensorboard_gets_the_curves(data, tmp_path):
    pytest.importorskip("tensorboardX")
    result = play(data, tmp_path / "run", TensorBoard(), rounds=2)
    found = curves(tmp_path / "run" / "tensorboard")
    test = result.metrics["top1"][1::2]  # after each round
    assert [step for step, _ in found["test/top1"]] == [1, 2]
    assert [value for _, value in found["test/top1"]] == pytest.approx(test, abs=1e-6)
    assert {"train/loss", "test/loss", "train/seconds", "users/top1_p10", "users/top1_mean"} <= set(found)


def curves(folder):
    """Name -> [(step, value)] of an event file: records of length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    raw, found = path.read_bytes(), {}
    while raw:
        size = int.from_bytes(raw[:8], "little")
        event = Event.FromString(raw[12 : 12 + size])
        raw = raw[16 + size :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_without_tensorboardx_is_refused_in_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(BadInput, match=r'^TensorBoard needs tensorboardX: pip install "fl-mobile-simulator\['):
        play(data, tmp_path / "run", TensorBoard())


class AskAfter(Callback):
    """Asks for a test after a round."""

    asks_tests = True

    def __init__(self, rounds):
        self.rounds = rounds

    def decide(self, record):
        return TEST_NOW if record.phase == "train" and record.at.step + 1 == self.rounds else CONTINUE


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=SLOW)])
def test_a_test_that_is_asked_for_is_the_one_that_a_setting_would_have_made(data, tmp_path, ranks):
    asked = play(data, tmp_path / "asked", AskAfter(2), rounds=3, eval_every=0, ranks=ranks)
    planned = play(data, tmp_path / "planned", rounds=3, eval_every=2)
    assert asked.metrics["phase"] == ["train", "train", "test", "train", "test"]
    assert metrics(asked.folder) == metrics(planned.folder)
    assert same(asked.params, planned.params)


def test_a_callback_that_does_not_say_that_it_asks_for_tests_is_refused():
    ask = AskAfter(1)
    ask.asks_tests = False
    chain = CallbackChain([ask], saves=False)
    with pytest.raises(BadInput, match="AskAfter asks for a test: it must say so with asks_tests = True"):
        chain.decide(a_round(0))
