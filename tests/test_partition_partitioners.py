"""reader/partition: who gets what. Every example goes to one user, floors and classes hold, the seed decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import BadInput
from reader.partition import PARTITIONERS, Dirichlet, Distribution, FeatureShift, PlainSet, label_skew
from reader.partition.feature_shift import turned
from reader.partition.quantity_skew import shared_out
from scheduler.rules.streams import stream


def plain(labels, **columns):
    labels = np.asarray(labels, np.int64)
    x = np.arange(len(labels) * 16, dtype=np.float32).reshape(-1, 1, 4, 4)
    return PlainSet("the set", x, labels, {name: np.asarray(values) for name, values in columns.items()})


def even(classes, each):
    return plain(np.arange(classes * each) % classes)


def deal(choice, examples, users=None, seed=0):
    return PARTITIONERS.make(choice).deal(examples, users, stream(seed, "partition"))


def label_counts(dealt, examples):
    return np.array([np.bincount(examples.y[rows], minlength=int(examples.y.max()) + 1) for rows in dealt])


def refused(choice, examples, users=None):
    with pytest.raises(BadInput) as caught:
        deal(choice, examples, users)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Each deals out all of 10 labels with 60 examples each to 20 users.
ALL_DEALT = [
    "iid",
    "dirichlet(1.0, min_partition_size=3)",
    "dirichlet(0.3, min_partition_size=3, self_balancing=True)",
    "pathological(3, 'first-deterministic')",
    "pathological(2, 'deterministic')",
    "shard(3)",
    "shard(shard_size=7, keep_incomplete_shard=True)",
    "power-law(1.5)",
    "log-normal(2.0, min_partition_size=1)",
    "quantity-dirichlet(0.5)",
    "distribution(2, 3)",
    "natural-id('who')",
    "feature-shift('dirichlet(1.0, min_partition_size=1)', noise=0.1)",
]


@pytest.mark.parametrize("choice", ALL_DEALT)
def test_every_example_goes_to_exactly_one_user_and_the_seed_decides_to_whom(choice):
    examples = plain(np.repeat(np.arange(10), 60), who=np.arange(600) % 20)
    dealt = [deal(choice, examples, 20, seed) for seed in (5, 5, 6)]
    for users in dealt:
        assert len(users) == 20
        assert min(map(len, users)) >= 1
        assert sorted(np.concatenate(users).tolist()) == list(range(600))
    once, again, other = ([rows.tolist() for rows in users] for users in dealt)
    assert once == again
    assert (once != other) == (choice != "natural-id('who')")


@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=80),
    users=st.integers(1, 12),
    choice=st.sampled_from(
        ["iid", "quantity-dirichlet(1.0, 1)", "power-law(2.0, 1)", "log-normal(1.0, 1)", "shard(1)"]
    ),
    seed=st.integers(0, 2**40),
)
def test_nobody_gets_what_another_has(labels, users, choice, seed):
    examples = plain(labels)
    dealt = deal(choice, examples, users, seed)
    rows = np.concatenate(dealt)
    assert len(dealt) == users
    assert min(map(len, dealt)) >= 1
    assert len(set(rows.tolist())) == len(rows)
    if choice != "shard(1)":  # whose rest of less than a shard a user is nobody's
        assert len(rows) == len(labels)
    else:
        assert len(rows) == len(labels) // users * users


def test_iid_sizes_differ_by_one_at_most():
    assert sorted(map(len, deal("iid", even(3, 7), 4))) == [5, 5, 5, 6]


# ---- Dirichlet ----


@pytest.mark.parametrize("floor", [1, 10, 25])
def test_the_floor_of_dirichlet_holds(floor):
    for seed in range(10):
        dealt = deal(f"dirichlet(0.5, min_partition_size={floor})", even(10, 60), 10, seed)
        assert min(map(len, dealt)) >= floor


def test_shares_of_a_label_have_dirichlet_s_mean_and_deviation():
    """Dir(a, .., a) over 5 users: mean 1/5, variance (1/5)(4/5)/(5a + 1), which for a = 2 is 0.01455."""
    shares = [
        label_counts(deal("dirichlet(2.0, 1)", even(10, 500), 5, seed), even(10, 500)) / 500 for seed in range(60)
    ]
    shares = np.concatenate(shares, axis=1)  # (5, 600)
    assert np.allclose(shares.mean(axis=1), 0.2, atol=4 * 0.1206 / np.sqrt(600))
    assert shares.var() == pytest.approx(0.01455, rel=0.1)


def test_a_list_of_alphas_has_one_a_user():
    """Dir(1, 3): the second user's share is 3/4 on average, with variance (3/16) / 5."""
    counts = [
        label_counts(deal("dirichlet([1.0, 3.0], 1)", even(10, 200), 2, seed), even(10, 200)) for seed in range(60)
    ]
    assert np.mean([each[1].sum() / 2000 for each in counts]) == pytest.approx(0.75, abs=4 * 0.1936 / np.sqrt(600))
    assert "alpha is a list of 2; there are 3 users" in refused("dirichlet([1.0, 3.0])", even(10, 200), 3)


def test_the_smaller_alpha_the_fewer_labels():
    def labels(alpha):
        return np.count_nonzero(label_counts(deal(f"dirichlet({alpha}, 1)", even(10, 200), 10), even(10, 200)))

    assert labels(0.05) < labels(0.5) < labels(100.0) == 100


def test_self_balancing_gives_nothing_of_later_labels_to_those_with_more_than_an_even_share():
    partitioner = Dirichlet(0.3, 1, self_balancing=True)
    for seed in range(20):
        counts = partitioner._draw([100] * 10, np.full(10, 0.3), np.random.default_rng(seed))
        before = np.cumsum(counts, axis=0) - counts
        assert not counts[before > 100].any()
        assert counts.sum(axis=1).tolist() == [100] * 10


def test_draws_of_nothing_are_shared_evenly():
    """alpha so small that each label is one user's: whoever is below an even share drew 0.0 exactly."""
    counts = Dirichlet(1e-9, 1, self_balancing=True)._draw([90] * 4, np.full(3, 1e-9), np.random.default_rng(0))
    assert counts.sum(axis=1).tolist() == [90] * 4


def test_dirichlet_that_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(label_skew, "_DRAWS", 50)
    assert "min_partition_size is 61; 10 users cannot have so many of 600" in refused(
        "dirichlet(1.0, 61)", even(10, 60), 10
    )
    assert "in 50 draws the smallest of 30 users had" in refused("dirichlet(0.01)", even(2, 200), 30)
    assert "alpha is 0.0; it must be above 0" in refused("dirichlet(0.0)", even(2, 2), 2)
    assert "min_partition_size is 0; it must be at least 1" in refused("dirichlet(1.0, 0)", even(2, 2), 2)


# ---- classes and shards ----


@pytest.mark.parametrize("mode", ["random", "deterministic", "first-deterministic"])
@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_each_user_has_so_many_classes_shared_evenly(mode, classes):
    examples = even(10, 50)
    counts = label_counts(deal(f"pathological({classes}, '{mode}')", examples, 25), examples)
    assert np.count_nonzero(counts, axis=1).tolist() == [classes] * 25
    for owned in counts.T:
        parts = owned[owned > 0]
        assert parts.size == 0 or parts.max() - parts.min() <= 1
        assert parts.sum() in (0, 50)
    if mode == "deterministic":
        wanted = [sorted((user + step) % 10 for step in range(classes)) for user in range(25)]
        assert [np.flatnonzero(row).tolist() for row in counts] == wanted
    if mode == "first-deterministic":
        assert all(row[user % 10] for user, row in enumerate(counts))


def test_labels_need_not_be_counted_from_nothing():
    examples = plain([3, 3, 5, 5, 9, 9])
    dealt = deal("pathological(1, 'deterministic')", examples, 3)
    assert [set(examples.y[rows].tolist()) for rows in dealt] == [{3}, {5}, {9}]


def test_classes_that_cannot_be_are_refused():
    assert "num_classes_per_partition is 5; the set has 4 labels" in refused("pathological(5)", even(4, 9), 2)
    assert "4 users are to have examples of label 0, of which there are 3" in refused(
        "pathological(2, 'deterministic')", plain([0, 0, 0, 1, 1, 1, 1]), 4
    )


def test_shards_are_pieces_of_the_set_in_the_order_of_labels():
    examples = plain([2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])
    in_order = np.argsort(examples.y, kind="stable")
    dealt = deal("shard(2)", examples, 3)
    shards = {tuple(piece) for rows in dealt for piece in rows.reshape(2, 2).tolist()}
    assert shards == {tuple(piece) for piece in in_order.reshape(6, 2).tolist()}


@pytest.mark.parametrize(
    ("choice", "sizes"),
    [
        ("shard(2, 10)", [20, 20, 20]),  # what nobody needs is left out
        ("shard(2)", [34, 34, 34]),  # 103 // 6 = 17
        ("shard(shard_size=20)", [40, 40, 20]),  # five shards, the rest of 3 left out
        ("shard(shard_size=20, keep_incomplete_shard=True)", [40, 40, 23]),
    ],
)
def test_sizes_of_shards(choice, sizes):
    dealt = deal(choice, plain(np.arange(103) % 4), 3)
    assert sum(map(len, dealt)) == sum(sizes)
    if "keep" not in choice:
        assert [len(rows) for rows in dealt] == sizes


def test_shards_that_cannot_be_are_refused():
    assert "num_shards_per_partition, shard_size or both" in refused("shard", even(2, 2), 2)
    assert "4 examples are 2 shards of 2; 2 users need 4" in refused("shard(2, 2)", even(2, 2), 2)
    assert "take a smaller shard_size" in refused("shard(9)", even(2, 2), 2)


# ---- sizes ----


def test_things_are_shared_out_by_largest_remainder():
    """Of 10 in proportion 1, 1, 2: 2.5, 2.5 and 5; the first of equal remainders gets the one left."""
    assert shared_out(10, np.array([1.0, 1.0, 2.0])).tolist() == [3, 2, 5]
    assert shared_out(0, np.array([1.0, 1.0])).tolist() == [0, 0]
    assert shared_out(7, np.array([0.0, 1e-300])).tolist() == [0, 7]


@pytest.mark.parametrize("choice", ["power-law(1.2, 4)", "log-normal(3.0, 4)", "quantity-dirichlet(0.1, 4)"])
def test_the_floor_of_sizes_holds_and_sizes_differ(choice):
    sizes = sorted(map(len, deal(choice, even(4, 500), 50)))
    assert sizes[0] >= 4
    assert sum(sizes) == 2000
    assert sizes[-1] > 5 * sizes[25]
    assert "cannot have so many of 8 examples" in refused(choice, even(2, 4), 3)


def test_log_normal_of_no_deviation_is_even():
    assert list(map(len, deal("log-normal(0.0)", even(4, 25), 5))) == [20] * 5


def test_a_power_law_has_its_tail():
    """The chance that a size is above twice another falls by 2^-(exponent - 1): of 3, by 4."""
    weights = PARTITIONERS.make("power-law(3.0)").weights(40_000, np.random.default_rng(0))
    least = weights.min()
    above = [(weights > least * factor).mean() for factor in (2, 4)]
    assert above == pytest.approx([1 / 4, 1 / 16], rel=0.1)


# ---- FedProx's MNIST ----


def test_distribution_is_two_labels_a_user_in_unequal_amounts():
    examples = even(10, 700)
    for choice, left in (("distribution", 0), ("distribution(rescale=False)", None)):
        counts = label_counts(deal(choice, examples, 100), examples)
        has = [np.flatnonzero(row).tolist() for row in counts]
        assert has == [sorted([user % 10, (user + 1) % 10]) for user in range(100)]
        assert counts[counts > 0].min() >= 5
        sizes = np.sort(counts.sum(axis=1))
        assert sizes[-1] > 5 * sizes[50]
        lost = 7000 - counts.sum()
        # Rounding down leaves less than one for each of 20 users of each label.
        assert lost == left if left is not None else 0 < lost < 200


def test_distribution_that_cannot_be_is_refused():
    assert "a multiple of 10" in refused("distribution", even(10, 50), 15)
    said = refused("distribution(2, 20)", even(10, 50), 20)
    assert "preassigned_num_samples_per_label is 20 for each of 4 users, but there are 50" in said
    assert Distribution() == PARTITIONERS.make("distribution(2, 5, 2.0, True)")


# ---- by a column ----


def test_natural_ids_are_users_of_that_name():
    examples = plain([0, 1, 0, 1, 0], who=["b", "a", "b", "c", "a"])
    partitioner = PARTITIONERS.make("natural-id('who')")
    dealt = partitioner.deal(examples, None, stream(0, "partition"))
    assert [rows.tolist() for rows in dealt] == [[1, 4], [0, 2], [3]]
    assert partitioner.uids(examples, 3) == ["a", "b", "c"]
    tests = plain([0, 1], who=["c", "z"])
    assert [(uid, rows.tolist()) for uid, rows in partitioner.deal_tests(tests)] == [("c", [0]), ("z", [1])]
    assert partitioner.deal_tests(plain([0, 1])) is None
    assert "has no column 'whom'; there are: 'who'" in refused("natural-id('whom')", examples)
    assert "--users 2: 'who' has 3 values" in refused("natural-id('who')", examples, 2)


@pytest.mark.parametrize("who", ["", "a\x01b", "x" * 1025])
def test_what_cannot_be_a_uid_is_refused(who):
    said = refused("natural-id('who')", plain([0, 1, 0], who=["a", "b", who]))
    assert "the set: example 2 (from 0) has" in said
    assert "which cannot be a uid" in said


# ---- feature shift ----


def test_users_see_images_turned_in_their_turn():
    shift = PARTITIONERS.make("feature-shift(rotations=[0, 90])")
    x = even(2, 2).x
    rng = np.random.default_rng(0)
    assert shift.changed(x, 2, 4, rng).tolist() == x.tolist()
    assert shift.changed(x, 3, 4, rng).tolist() == np.rot90(x, axes=(-2, -1)).tolist()


def test_a_turn_of_any_angle_goes_the_way_of_a_right_one():
    x = np.random.default_rng(0).uniform(size=(2, 1, 7, 7))
    for right in (90, 180, 270, -90):
        assert np.abs(turned(x, right + 1e-4) - turned(x, right)).max() < 1e-3


def test_a_turn_mixes_four_neighbours_and_keeps_the_middle():
    """By 45 degrees about the middle of 3 x 3: a corner comes from (1 - sqrt 2) beyond the edge's middle."""
    x = np.zeros((1, 1, 3, 3), np.float32)
    x[..., 1, 1], x[..., 0, 1] = 100, 10
    made = turned(x, 45)[0, 0]
    assert made[1, 1] == pytest.approx(100)
    # The corner up left comes from 0.414 above the top of the middle column: 10 (1 - 0.414).
    assert made[0, 0] == pytest.approx(10 * (2 - np.sqrt(2)), abs=1e-4)
    assert turned(np.full((1, 1, 3, 3), 255, np.uint8), 45).max() == 255


def test_noise_grows_with_the_number_of_the_user():
    """Variance noise (i + 1) / N; bytes count from 0 to 1."""
    shift = FeatureShift(noise=0.5)
    x = np.full((400, 1, 10, 10), 51, np.uint8)
    for user, variance in ((0, 0.125), (3, 0.5)):
        seen = shift.changed(x, user, 4, stream(0, "x", user))
        assert seen.dtype == np.float32
        assert seen.mean() == pytest.approx(0.2, abs=0.02)
        assert seen.var() == pytest.approx(variance, rel=0.05)


def test_shifts_that_cannot_be_are_refused():
    examples = even(2, 4)
    assert "neither rotations nor noise" in refused("feature-shift", examples, 2)
    assert "there is no partitioner 'dirichlt'" in refused("feature-shift('dirichlt', noise=1)", examples, 2)
    twice = """feature-shift("feature-shift('iid', noise=1)", noise=1)"""
    assert "base is a feature-shift itself" in refused(twice, examples, 2)
    rows = PlainSet("rows", np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]))
    assert "no square images" in refused("feature-shift(rotations=[90])", rows, 2)


@pytest.mark.parametrize("users", [None, 0, 9])
def test_a_number_of_users_that_cannot_be_is_refused(users):
    assert refused("iid", even(2, 4), users).startswith("--users")
