"""A cache of prepared examples changes no bit, whoever fills it and whoever uses it."""

import re

import pytest
from running import TINY, assert_same_record, run, start
from tiny_task import make_data

pytestmark = pytest.mark.usefixtures("forks")

ARGUMENTS = ["--rounds", 3, "--sample-num", 5, "--eval-every", 2, "--seed", 7, "--lr", 0.3, "--private", "norm.*"]


def taken(text):
    """(date, split, files that were in the cache, files), as all simulators have told together."""
    told = re.findall(r"(\d{8}) (train|test): (\d+) of (\d+) files were in --cache", text)
    sums = {}
    for date, split, cached, files in told:
        before = sums.get((date, split), (0, 0))
        sums[date, split] = (before[0] + int(cached), before[1] + int(files))
    return sums


@pytest.mark.slow
def test_a_cache_that_two_runs_fill_at_once_gives_the_same_bits_to_any_placement(tmp_path):
    data = make_data(tmp_path / "data", days=("20200101", "20200102"))
    arguments, kept = [data, *ARGUMENTS], ["--cache", tmp_path / "cache"]
    run(TINY, *arguments, "--shards", 1, "--output", tmp_path / "plain")
    both = [
        start(TINY, *arguments, *kept, "--shards", shards, "--output", tmp_path / name)
        for name, shards in (("a", 1), ("b", 2))
    ]
    said = [each.communicate(timeout=120)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    warm = run(TINY, *arguments, *kept, "--shards", 1, "--output", tmp_path / "warm", ranks=3)
    for name in ("a", "b", "warm"):
        assert_same_record(tmp_path / name, tmp_path / "plain")
    sums = taken(warm.stdout + warm.stderr)
    assert sums
    assert all(cached == files > 0 for cached, files in sums.values())
    assert not list((tmp_path / "cache").glob("*.part"))
    assert "--cache" not in "".join(line for text in said for line in text.splitlines() if "WARNING" in line)
