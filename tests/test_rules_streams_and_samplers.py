"""scheduler/rules/streams.py and scheduler/rules/samplers.py: cohorts are pure functions of (seed, date, round)."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import BadInput, NotFound
from scheduler.rules.samplers import (
    AllTestSampler,
    FixedSampler,
    HashSampler,
    NoTestSampler,
    OnePercentTestSampler,
    Round,
    Sampler,
    UniformSampler,
    UserTable,
    check_cohort,
)
from scheduler.rules.streams import stream, stream_key, uid_hash

quick = settings(derandomize=True, max_examples=60, deadline=None)
DATE = "20200101"


def at(number=1, *, seed=0, date=DATE, step=0):
    return Round(seed, date, number, step)


def table(size, count=5):
    return UserTable.of({f"u{i:05d}": count for i in range(size)})


# -- streams -----------------------------------------------------------------------


def test_a_key_is_the_same_on_every_machine():
    """Numbers of blake2b over "0", "str:train", "str:20200101", "int:3", "str:alice", joined by NUL."""
    assert stream_key(0, "train", DATE, 3, "alice") == 96014786183768800561265094056588642521
    assert uid_hash("alice") == 9933345172075899469


def test_the_same_key_gives_the_same_stream():
    assert np.array_equal(stream(5, "a", 1).random(100), stream(5, "a", 1).random(100))


parts = st.lists(st.integers(-5, 5) | st.text("ab1-", max_size=3), max_size=4)


@quick
@given(st.tuples(st.integers(0, 3), parts), st.tuples(st.integers(0, 3), parts))
def test_different_parts_give_different_streams(one, other):
    same = (one[0], *one[1]) == (other[0], *other[1])
    assert (stream_key(one[0], *one[1]) == stream_key(other[0], *other[1])) is same
    assert np.array_equal(stream(one[0], *one[1]).random(4), stream(other[0], *other[1]).random(4)) is same


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), ((1,), ("1",)), ((), ("",)), ((1, 2), (2, 1))])
def test_parts_are_not_run_together(one, other):
    assert stream_key(0, *one) != stream_key(0, *other)


# -- users -------------------------------------------------------------------------


def test_a_user_table_is_sorted_whatever_the_order_it_came_in():
    users = UserTable.of({"b": 2, "a": 1, "c": 3})
    assert users.uids == ("a", "b", "c")
    assert users.counts.tolist() == [1, 2, 3]
    assert [users.count(uid) for uid in "abc"] == [1, 2, 3]
    assert users.qualifying(2) == ["b", "c"]
    assert users.qualifying(4) == []


@pytest.mark.parametrize("uid", ["", "aa", "d"])
def test_an_unknown_uid_is_not_found(uid):
    with pytest.raises(NotFound, match=f"unknown uid {uid!r}"):
        UserTable.of({"a": 1, "b": 2, "c": 3}).count(uid)


# -- uniform -----------------------------------------------------------------------


@quick
@given(st.integers(1, 40), st.data())
def test_uniform_draws_without_replacement_from_those_with_enough_examples(size, data):
    counts = data.draw(st.lists(st.integers(1, 4), min_size=size, max_size=size))
    users = UserTable.of({f"u{i}": count for i, count in enumerate(counts)})
    least = data.draw(st.integers(1, max(counts)))
    able = [uid for uid in users.uids if users.count(uid) >= least]
    wanted = data.draw(st.integers(1, len(able)))
    cohort = UniformSampler(wanted, least).sample(users, at(data.draw(st.integers(0, 9))))
    assert len(set(cohort)) == len(cohort) == wanted
    assert set(cohort) <= set(able)


def test_uniform_is_a_function_of_seed_date_and_round_alone():
    users, sampler = table(1000), UniformSampler(10)
    cohort = sampler.sample(users, at(3, seed=1))
    assert sampler.sample(users, at(3, seed=1, step=77)) == cohort
    assert UniformSampler(10).sample(UserTable.of(dict.fromkeys(reversed(users.uids), 5)), at(3, seed=1)) == cohort
    for other in (at(4, seed=1), at(3, seed=2), at(3, seed=1, date="20200102")):
        assert sampler.sample(users, other) != cohort


def test_uniform_names_both_settings_when_too_few_qualify():
    users = UserTable.of({"a": 1, "b": 5, "c": 5})
    assert sorted(UniformSampler(2, 5).sample(users, at())) == ["b", "c"]
    message = (
        "date 20200101: --sample-num 3 is more than the 2 users with at least --min-ins-num 5 examples (of 3); "
        "lower one of the two"
    )
    with pytest.raises(BadInput, match=re.escape(message)):
        UniformSampler(3, 5).sample(users, at())
    with pytest.raises(BadInput, match="--sample-num 3"):
        UniformSampler(3, 5).check(users, DATE, range(4, 9))
    UniformSampler(3, 5).check(users, DATE, range(4, 4))  # no round, nothing to sample


def test_uniform_takes_every_user_about_as_often():
    """50 users, 1000 cohorts of 10: counts have mean 200 and variance 1000 * 0.2 * 0.8 = 160.

    The statistic is chi-square with 49 degrees of freedom (times 50/49): mean 50, standard deviation 10.
    """
    users, sampler = table(50), UniformSampler(10)
    taken = dict.fromkeys(users.uids, 0)
    for number in range(1000):
        for uid in sampler.sample(users, at(number)):
            taken[uid] += 1
    statistic = sum((count - 200) ** 2 for count in taken.values()) / 160
    assert 15 < statistic < 100


# -- hash --------------------------------------------------------------------------


def test_hash_takes_its_share_of_users_and_the_same_in_every_round():
    """10 % of 10 000: 1000 with a standard deviation of 30."""
    users = table(10_000)
    cohort = HashSampler(10.0).sample(users, at())
    assert 850 < len(cohort) < 1150
    assert HashSampler(10.0).sample(users, at(9, seed=4, date="20200105", step=9)) == cohort
    assert set(HashSampler(5.0).sample(users, at())) < set(cohort)
    assert HashSampler(100.0).sample(users, at()) == list(users.uids)


def test_hash_keeps_to_users_with_enough_examples():
    users = UserTable.of({"a": 1, "b": 3})
    assert HashSampler(100.0, 2).sample(users, at()) == ["b"]
    with pytest.raises(BadInput, match=re.escape("--hash-percent 100.0 chooses none of the 2 users (--min-ins-num 4)")):
        HashSampler(100.0, 4).sample(users, at())
    with pytest.raises(BadInput, match="date 20200101: --hash-percent 1e-12"):
        HashSampler(1e-12).check(users, DATE, range(1))


# -- fixed -------------------------------------------------------------------------


def plan_file(tmp_path, content):
    path = tmp_path / "cohorts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_fixed_replays_the_plan_by_the_step_of_the_run(tmp_path):
    sampler = FixedSampler.from_file(plan_file(tmp_path, [["b", "a"], ["é"], ["a"]]))
    users = UserTable.of({"a": 1, "b": 1, "é": 1})
    sampler.check(users, DATE, range(3))
    assert [sampler.sample(users, at(1, step=step)) for step in range(3)] == [["b", "a"], ["é"], ["a"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[", r"not JSON \("),
        ("{}", "expected a list of lists of uids"),
        ("[]", "expected a list of lists of uids"),
        ('["a"]', "cohort 0 is not a list of uids"),
        ('[["a"], []]', "cohort 1 is not a list of uids with at least one"),
        ('[["a"], [3]]', "cohort 1 is not a list of uids"),
        ('[["a", "b", "b"]]', "cohort 0 names uid 'b' twice"),
    ],
)
def test_a_plan_that_is_none_is_refused(tmp_path, content, message):
    path = plan_file(tmp_path, content)
    with pytest.raises(BadInput, match=f"--plan {re.escape(str(path))}: {message}"):
        FixedSampler.from_file(path)


def test_a_plan_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"--plan .*none.json: No such file"):
        FixedSampler.from_file(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"--plan .*binary.json: not JSON"):
        FixedSampler.from_file(tmp_path / "binary.json")


def test_a_plan_must_reach_over_all_rounds_and_name_known_uids():
    users = UserTable.of({"a": 1, "b": 1})
    sampler = FixedSampler((("a",), ("b", "x"), ("y",)), "plan.json")
    sampler.check(users, DATE, range(1))
    with pytest.raises(BadInput, match=r"--plan plan.json has 3 cohorts, the run needs 4; lower --rounds"):
        sampler.check(users, DATE, range(1, 4))
    with pytest.raises(BadInput, match=r"cohort 1 names unknown uid 'x' \(date 20200101\)"):
        sampler.check(users, DATE, range(3))
    with pytest.raises(BadInput, match="cohort 2 names unknown uid 'y'"):
        sampler.check(users, DATE, range(2, 3))


# -- a sampler of the user's own, and the contract ----------------------------------


class LargestFirst(Sampler):
    name = "largest"

    def sample(self, users, at):
        if at.step > 5:
            raise BadInput("only six rounds")
        return sorted(users.uids, key=lambda uid: -users.count(uid))[:2]


def test_a_sampler_of_ones_own_is_tried_at_the_days_first_step():
    users = UserTable.of({"a": 1, "b": 3, "c": 2})
    LargestFirst().check(users, DATE, range(5, 6))
    with pytest.raises(BadInput, match="only six rounds"):
        LargestFirst().check(users, DATE, range(6, 8))
    assert LargestFirst().sample(users, at()) == ["b", "c"]


@pytest.mark.parametrize(
    ("cohort", "message"),
    [([], "chose nobody"), (["a", "b", "a"], "chose a uid twice: 'a'"), (["a", "x"], "chose unknown uid 'x'")],
)
def test_a_cohort_that_breaks_the_contract_is_refused(cohort, message):
    with pytest.raises(BadInput, match=f"date 20200101, round 4: sampler LargestFirst {message}"):
        check_cohort(cohort, ("a", "b"), LargestFirst(), at(4))


def test_a_good_cohort_passes():
    check_cohort(["b", "a"], ("a", "b"), LargestFirst(), at())


# -- test samplers -----------------------------------------------------------------


def test_all_and_none():
    assert AllTestSampler().sample(UserTable.of({"b": 1, "a": 1}), 0, DATE) == ["a", "b"]
    assert NoTestSampler().sample(table(3), 0, DATE) == []


@pytest.mark.parametrize(("size", "tested"), [(1, 1), (20, 1), (149, 1), (250, 2), (1000, 10)])
def test_one_per_cent_is_at_least_one(size, tested):
    users = table(size)
    chosen = OnePercentTestSampler().sample(users, 0, DATE)
    assert len(set(chosen)) == len(chosen) == tested
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(users.uids)


def test_one_per_cent_is_the_same_in_every_test_of_a_day():
    users, sampler = table(1000), OnePercentTestSampler()
    assert sampler.sample(users, 3, DATE) == sampler.sample(users, 3, DATE)
    assert sampler.sample(users, 3, DATE) != sampler.sample(users, 4, DATE)
    assert sampler.sample(users, 3, DATE) != sampler.sample(users, 3, "20200102")
