"""Users' weights: told when data is loaded, of all a user's examples, of any size; what is none is named."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from running import ROOT, assert_same_record, params, private, run, same
from test_e2e_oracle import cohorts, softmax_step, user_of
from test_state_round_state import DAY, NO_TIME, add_users, at, frozen, make_state, share, sums
from tiny_task import make_data

from protos.codec import from_bundle
from protos.errors import BadInput, WrongState
from protos.stubs import tensor_pb2
from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import FixedSampler
from scheduler.rules.server_optimizers import Sum
from scheduler.rules.streams import owner_of
from scheduler.state.read_users import ReadUsers
from scheduler.state.rounds import Share
from simulator.shards import jobs
from simulator.worker.file_reading import read_files
from simulator.worker.weighing import check_same_weight, weight_of, weight_of_piece

pytestmark = pytest.mark.usefixtures("forks")

WEIGHING = ROOT / "tests" / "weighing_task.py"


# -- what a trainer says -----------------------------------------------------------


class Says:
    """A trainer whose weight is what it was given."""

    def __init__(self, weight):
        self.given = weight

    def weight(self, examples):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


@pytest.mark.parametrize("weight", [0, 3, 1e-300, 5e-324, 1.7e308, np.float32(0.5), np.array(2), True])
def test_any_finite_number_that_is_not_negative_is_a_weight(weight):
    assert weight_of(Says(weight), "ann", {}) == float(weight)
    assert weight_of_piece(Says(weight), "ann", {}) == float(weight)


@pytest.mark.parametrize(
    ("weight", "text"),
    [(math.nan, "nan"), (math.inf, "inf"), (-1.5, "-1.5"), (None, "None"), ("much", "much"), (np.ones(2), r"\[1. 1.\]"),
     (10**400, "1000")],
)  # fmt: skip
def test_what_is_no_weight_is_named_with_uid_and_trainer(weight, text):
    with pytest.raises(BadInput, match=rf"uid 'ann': Says.weight gave {text}.*; a weight must be a finite number"):
        weight_of(Says(weight), "ann", {})
    assert weight_of_piece(Says(weight), "ann", {}) is None


def test_a_piece_that_cannot_be_weighed_alone_waits_for_the_others():
    assert weight_of_piece(Says(ZeroDivisionError()), "ann", {}) is None
    with pytest.raises(ZeroDivisionError):
        weight_of(Says(ZeroDivisionError()), "ann", {})


def test_a_weight_that_is_another_in_the_round_is_named():
    check_same_weight(Says(1), "ann", 2.0, 2.0)
    with pytest.raises(
        BadInput, match=r"uid 'ann': Says.weight gave 2.0 when the data was loaded and 2.5 in the round"
    ):
        check_same_weight(Says(1), "ann", 2.5, 2.0)


def test_pieces_are_counted_together_and_weighed_by_nobody_who_has_only_some():
    one, other = ReadUsers(), ReadUsers()
    one.add("a", 3, 3.0)
    one.add("b", 1, 1.0)
    one.add("b", 4, 4.0)  # a second file
    one.add("c", 2, None)
    other.add("a", 5, 5.0)
    other.add("d", 6, 6.0)
    one.merge(other)
    third = ReadUsers()
    third.add("a", 1, 1.0)
    one.merge(third)
    assert one == ReadUsers({"a": 9, "b": 5, "c": 2, "d": 6}, {"d": 6.0})


def test_a_piece_is_weighed_in_the_layout_it_will_have_in_the_rounds(tmp_path):
    """Sums of an array that lies column by column, or of another byte order, may be rounded in another order."""
    rows = np.zeros((9, 7), order="F")
    kept = []
    reader = SimpleNamespace(read=lambda path: [("ann", {"x": rows})])
    client = SimpleNamespace(owner=lambda uid: 0, send_data=lambda owner, records: kept.extend(records))
    weigh = lambda uid, examples: float(examples["x"].flags.c_contiguous)  # noqa: E731
    job = jobs.ReadFiles(DAY, "train", ((0, tmp_path / "file"),))
    users = read_files(reader, client, job, [0], lambda path: None, weigh)
    fetched = from_bundle(tensor_pb2.TensorBundle.FromString(kept[0].payload))
    assert users.weights == {"ann": weigh("ann", fetched)}
    assert users.weights != {"ann": weigh("ann", {"x": rows})}


# -- the scheduler -----------------------------------------------------------------

RANKS = (1, 2)
# One of each simulator's own users is in two pieces.
MINE, THEIRS = ([uid for uid in "abcdefgh" if owner_of(uid, RANKS) == rank] for rank in RANKS)
ONE, OTHER = MINE[0], THEIRS[0]
WHOLE = MINE[1]


def make_pieces(**settings):
    """`ONE` is read by both simulators, `OTHER` twice by the second, `WHOLE` by the first."""
    plan = FixedSampler(((ONE, OTHER, WHOLE), (WHOLE,)))
    state = make_state(sampler=plan, ready=False, **settings)
    state.model.set_initial({"w": np.array([1.0, 2.0], np.float32)}, [])
    add_users(state, 1, DAY, "train", {ONE: 1, WHOLE: 4}, {ONE: 1.0, WHOLE: 0.25} if state.rules.weighs else {})
    add_users(state, 2, DAY, "train", {ONE: 2, OTHER: 6}, {ONE: 2.0} if state.rules.weighs else {})
    return state


def test_who_keeps_a_user_of_several_pieces_is_asked_for_its_weight():
    state = make_pieces()
    assert [state.users.to_weigh(rank, DAY, "train") for rank in RANKS] == [[ONE], [OTHER]]
    assert [state.users.to_weigh(rank, DAY, "test") for rank in RANKS] == [[], []]
    with pytest.raises(WrongState, match="users of 20200101 are not weighed yet"):
        share(state, 1, DAY, 1, 0)
    state.add_weights(2, DAY, {OTHER: 0.5})
    assert not state.users.weighed(DAY)
    state.add_weights(1, DAY, {ONE: 1.0})
    assert state.users.weighed(DAY)
    # 0.25 + 0.5 + 1 = 1.75: an exponent of 1.
    told = {uid: w for rank in RANKS for s in [share(state, rank, DAY, 1, 0)]
            for uid, w in zip(s.uids, s.weights, strict=True)}  # fmt: skip
    assert told == {WHOLE: 0.25, ONE: 1.0, OTHER: 0.5}
    assert share(state, 1, DAY, 1, 0).exponent == 1


@pytest.mark.parametrize(
    ("rank", "weights", "kind", "text"),
    [
        (1, {OTHER: 1.0}, WrongState, "rank 1's weights are not of the users it was asked for"),
        (1, {}, WrongState, "not of the users it was asked for"),
        (1, {ONE: 1.0, WHOLE: 1.0}, WrongState, "not of the users it was asked for"),
        (1, {ONE: math.nan}, BadInput, f"uid {ONE!r} has weight nan; it must be finite and not negative"),
        (1, {ONE: -1.0}, BadInput, "has weight -1.0"),
    ],
)
def test_weights_that_nobody_asked_for_change_nothing(rank, weights, kind, text):
    state = make_pieces()
    before = frozen(vars(state))
    with pytest.raises(kind, match=text):
        state.add_weights(rank, DAY, weights)
    assert frozen(vars(state)) == before
    state.add_weights(1, DAY, {ONE: 1.0})
    with pytest.raises(WrongState, match="rank 1 has no weights of 20200101 to tell"):
        state.add_weights(1, DAY, {ONE: 1.0})


def test_where_users_are_not_weighed_nobody_is_asked():
    for state in (make_pieces(optimizer=Sum(1.0)), make_pieces(federated=False)):
        assert [state.users.to_weigh(rank, DAY, "train") for rank in RANKS] == [[], []]
        with pytest.raises(BadInput, match="date 20200102, train: uid 'a' came with a weight; none has one"):
            add_users(state, 1, "20200102", "train", {"a": 1}, {"a": 1.0})
    assert [share(make_pieces(optimizer=Sum(1.0)), 1, DAY, 1, 0).weights] == [(1.0,)]
    assert share(state, 1, DAY, 1, 0).weights == ()


def test_a_cohort_of_which_nobody_counts_is_named_with_its_round():
    state = make_state(ready=False)
    counts = {"a": 4, "b": 2, "c": 2, "d": 9}
    add_users(state, 1, DAY, "train", counts, {"a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0})
    add_users(state, 2, DAY, "train", {}, {})
    with pytest.raises(BadInput, match="date 20200101, round 1: all 3 users of the cohort have weight 0"):
        share(state, 1, DAY, 1, 0)
    assert share(state, 1, DAY, 2, 1).exponent == 0


@pytest.mark.parametrize("size", [1e-300, 1e-12, 1.0, 1e300])
def test_small_and_large_weights_give_the_step_by_hand(size):
    """Weights 1, 1, 2 and 0 times any size; deltas [1, 0], [0, 2], [-1, 1] and [9, 9].

    The mean is [(1 - 2) / 4, (2 + 2) / 4] = [-0.25, 1]; FedAvg with rate 2 gives [1, 2] + [-0.5, 2].
    """
    deltas = {"a": [1, 0], "b": [0, 2], "c": [-1, 1], "d": [9, 9]}
    weights = {"a": size, "b": size, "c": 2 * size, "d": 0.0}
    state = make_state(ready=False, sampler=FixedSampler((tuple("abcd"), ("a",))))
    state.model.set_initial({"w": np.array([1.0, 2.0], np.float32)}, [])
    add_users(state, 1, DAY, "train", dict.fromkeys("abcd", 1), weights)
    add_users(state, 2, DAY, "train", {}, {})
    for rank in RANKS:
        mine = share(state, rank, DAY, 1, 0)
        assert isinstance(mine, Share)
        total = sum(np.array(deltas[uid]) * math.ldexp(weights[uid], -mine.exponent) for uid in mine.uids)
        results = [UserResult(uid, 1, weights[uid]) for uid in mine.uids]
        state.push(rank, at(), results, NO_TIME, sums(*total, exponent=0))
    assert state.model.params["w"] == pytest.approx([0.5, 4.0], rel=1e-7)


# -- runs --------------------------------------------------------------------------

FLAGS = ["--sample-num", 6, "--batch-size", 4, "--lr", 0.3, "--server-lr", 1]


def by_hand(data, output, weigh):
    """Rounds of softmax regression with users weighed on all their examples, float64."""
    start = params(output, "initial")
    weight, bias = start["layers.0.weight"].astype("float64"), start["layers.0.bias"].astype("float64")
    files = [json.loads(p.read_text()) for p in sorted((data / "20200101").glob("train*"))]
    for cohort in cohorts(output):
        deltas = []
        for uid in cohort:
            x, y = user_of(files, uid)
            w, b = weight, bias
            for i in range(0, len(y), 4):
                w, b = softmax_step(w, b, x[i : i + 4], y[i : i + 4], 0.3, 5.0)
            deltas.append((weigh(len(y)), w - weight, b - bias))
        total = sum(n for n, _, _ in deltas)
        weight = weight + sum(n * dw for n, dw, _ in deltas) / total
        bias = bias + sum(n * db for n, _, db in deltas) / total
    return weight, bias


def check_by_hand(tmp_path, how, weigh, *flags, ranks=1):
    data, output = make_data(tmp_path / "data", seed=3), tmp_path / "out"
    run(WEIGHING, data, *FLAGS, "--rounds", 3, "--weigh", how, *flags, "--output", output, ranks=ranks)
    weight, bias = by_hand(data, output, weigh)
    np.testing.assert_allclose(params(output)["layers.0.weight"], weight, atol=2e-6)
    np.testing.assert_allclose(params(output)["layers.0.bias"], bias, atol=2e-6)
    return data, output


@pytest.mark.slow
def test_a_run_with_tiny_weights_of_users_in_two_files_equals_a_numpy_loop(tmp_path):
    check_by_hand(tmp_path, "sqrt:1e-13", math.sqrt, "--shards", 2, ranks=3)


@pytest.mark.slow
def test_weights_do_not_depend_on_who_reads_what(tmp_path):
    how = "sqrt:1e-300"
    data, output = check_by_hand(tmp_path, how, math.sqrt, "--shards", 1)
    other = tmp_path / "other"
    flags = ["--rounds", 3, "--weigh", how, "--no-shared-memory", "--exchange", "always", "--shards", 2]
    run(WEIGHING, data, *FLAGS, *flags, "--output", other, ranks=3)
    assert_same_record(other, output)


@pytest.mark.slow
def test_weights_times_a_power_of_two_change_no_bit(tmp_path):
    data = make_data(tmp_path / "data", seed=3)
    for number, how in enumerate((1.0, 2.0**-900, 2.0**900)):
        run(WEIGHING, data, *FLAGS, "--rounds", 3, "--weigh", f"times:{how}", "--output", tmp_path / str(number))
    assert same(params(tmp_path / "0"), params(tmp_path / "1"))
    assert same(params(tmp_path / "0"), params(tmp_path / "2"))


@pytest.mark.slow
def test_users_that_do_not_count_train_their_private_parameters_all_the_same(tmp_path):
    """Those with at most 8 examples weigh nothing: the shared parameters are those of the others alone."""
    data, output = tmp_path / "data", tmp_path / "out"
    make_data(data, seed=3)
    flags = ["--rounds", 2, "--weigh", "large:8", "--private", "layers.0.bias", "--sample-num", 12]
    run(WEIGHING, data, *FLAGS, *flags, "--output", output)
    assert len(private(output)) == 12
    assert all(arrays["layers.0.bias"].any() for arrays in private(output).values())
    check_by_hand(tmp_path, "large:8", lambda count: count * (count > 8))


@pytest.mark.slow
def test_a_weight_that_only_the_whole_of_a_user_has_is_asked_for_the_whole(tmp_path):
    data = make_data(tmp_path / "data", users=3, days=("20200101",))
    # Only user000 is in two files; alone, the smaller part has no weight.
    sizes = [len(json.loads(p.read_text())["user000"]["y"]) for p in sorted((data / "20200101").glob("train*"))]
    for path in (data / "20200101").glob("*.json"):
        path.write_text(
            json.dumps({uid: user for uid, user in json.loads(path.read_text()).items() if uid == "user000"})
        )
    flags = ["--rounds", 1, "--sample-num", 1, "--train-last-day", "--weigh", f"whole:{max(sizes)}"]
    run(WEIGHING, data, *flags, "--output", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "ranks", "text"),
    [
        ("nan", 1, "uid 'user000': WeighingTrainer.weight gave nan; a weight must be a finite number and not negative"),
        ("nan", 3, "date 20200101: uid 'user0"),
        ("zero", 3, "date 20200101, round 1: all 6 users of the cohort have weight 0"),
        ("random", 3, "it must depend on the examples alone"),
    ],
)
def test_weights_that_cannot_be_end_the_run_with_one_line(tmp_path, how, ranks, text):
    data = make_data(tmp_path / "data")
    flags = ["--rounds", 1, "--weigh", how, "--shards", 1, "--output", tmp_path / "out"]
    done = run(WEIGHING, data, *FLAGS, *flags, ranks=ranks, check=False)
    assert done.returncode != 0
    assert text in done.stderr
    assert "Traceback" not in done.stderr
