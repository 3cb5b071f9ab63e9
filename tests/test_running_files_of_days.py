"""simulator/days.py and simulator/running/file_dealing.py: which days there are, and who reads which file."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import BadInput
from simulator.days import check_days, day_folder, list_days
from simulator.running.file_dealing import deal_files, listing

# -- days --------------------------------------------------------------------------


def test_days_are_folders_of_eight_digits_in_order(tmp_path):
    for name in ("20200102", "20191231", "2020", "202001011", "notes", "2020010a", "٢٠٢٠٠١٠١"):
        (tmp_path / name).mkdir()
    (tmp_path / "20200105").touch()
    assert list_days(tmp_path) == ["20191231", "20200102"]


def test_a_folder_without_days_is_named(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "train").touch()
    message = rf"data folder {tmp_path} has no day folders \(such as {tmp_path}/20200101\), nor train/ and test/"
    with pytest.raises(BadInput, match=message):
        list_days(tmp_path)
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(BadInput, match=rf"data folder {tmp_path / name} is missing or is no folder"):
            list_days(tmp_path / name)


def test_a_folder_with_train_and_test_is_one_day(tmp_path):
    for name in ("all_data", "test", "train"):
        (tmp_path / name).mkdir()
        if name != "all_data":
            assert list_days(tmp_path) == ["00000000"]
    assert day_folder(tmp_path, "00000000") == tmp_path
    assert day_folder(tmp_path, "20200101") == tmp_path / "20200101"


def test_a_folder_of_files_is_one_day_for_a_reader_that_says_so(tmp_path):
    (tmp_path / "u.data").touch()
    with pytest.raises(BadInput, match="has no day folders"):
        list_days(tmp_path)
    assert list_days(tmp_path, one_day=True) == ["00000000"]
    (tmp_path / "20200101").mkdir()
    assert list_days(tmp_path, one_day=True) == ["20200101"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_days_beside_train_or_test_are_refused(tmp_path, split):
    for name in (split, "20200101", "20200102"):
        (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match=rf"{tmp_path} has day folders \(such as 20200101\) and {split}/ beside them"):
        list_days(tmp_path)


def test_a_day_may_not_have_the_name_of_that_one(tmp_path):
    (tmp_path / "00000000").mkdir()
    with pytest.raises(BadInput, match=r"has a folder 00000000, which is no date"):
        list_days(tmp_path)


def test_hosts_lay_the_data_out_in_one_way():
    check_days(["00000000"])
    check_days(["20200101", "20200102"])
    with pytest.raises(BadInput, match=r"train/ and test/ on one host and day folders \(such as 20200102\) on another"):
        check_days(["00000000", "20200102"])


# -- files -------------------------------------------------------------------------


def listed(**sizes):
    return json.dumps([[name, size] for name, size in sizes.items()]).encode()


def deal(listings, lanes):
    return {rank: deal_files(listings, lanes, rank, "data/20200101: train") for rank in lanes}


def test_a_listing_names_files_within_the_data_folder(tmp_path):
    (tmp_path / "20200101" / "train").mkdir(parents=True)
    files = [tmp_path / "20200101" / "train.json", tmp_path / "20200101" / "train" / "ä.json"]
    for size, path in enumerate(files, start=3):
        path.write_bytes(bytes(size))
    assert json.loads(listing(tmp_path, files)) == [["20200101/train.json", 3], ["20200101/train/ä.json", 4]]


def test_files_are_dealt_by_size_to_the_least_loaded():
    """10 to rank 1, 7 to 2, 5 to 2 (12 < 15), 4 to 1 (14 < 16); numbers follow the names."""
    everything = listed(b=10, d=7, a=5, c=4)
    assert deal({1: everything, 2: everything}, {1: 1, 2: 1}) == {1: [(1, "b"), (2, "c")], 2: [(3, "d"), (0, "a")]}


def test_a_simulator_with_more_shards_reads_more():
    """Loads by shard: 6 to rank 1 (2), then rank 2 would have 6: 1 again (4), again (6); a tie goes to rank 1."""
    everything = listed(a=6, b=6, c=6, d=6, e=6)
    dealt = deal({1: everything, 2: everything}, {1: 3, 2: 1})
    assert [name for _, name in dealt[1]] == ["a", "b", "c", "e"]
    assert [name for _, name in dealt[2]] == ["d"]


def test_a_file_is_read_by_a_simulator_that_sees_it():
    dealt = deal({1: listed(a=1, both=5), 2: listed(z=9, both=5), 3: listed()}, {1: 1, 2: 1, 3: 4})
    assert dealt == {1: [(1, "both"), (0, "a")], 2: [(2, "z")], 3: []}


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 50), min_size=1), st.data())
def test_every_file_is_read_once_by_one_who_sees_it_and_numbered_by_name(sizes, data):
    ranks = range(1, data.draw(st.integers(1, 4)) + 1)
    lanes = {rank: data.draw(st.integers(1, 4)) for rank in ranks}
    seen = {name: data.draw(st.sets(st.sampled_from(ranks), min_size=1)) for name in sizes}
    listings = {rank: listed(**{name: size for name, size in sizes.items() if rank in seen[name]}) for rank in ranks}
    dealt = deal(listings, lanes)
    assert sorted(entry for mine in dealt.values() for entry in mine) == list(enumerate(sorted(sizes)))
    assert all(rank in seen[name] for rank, mine in dealt.items() for _, name in mine)


def test_one_name_with_two_sizes_is_refused():
    message = r"data/20200101: train: a has 3 bytes on rank 1 and 4 on rank 3; give the files .* different names"
    with pytest.raises(BadInput, match=message):
        deal({3: listed(a=4), 1: listed(a=3), 2: listed()}, {1: 1, 2: 1, 3: 1})


def test_a_day_without_files_is_refused():
    with pytest.raises(BadInput, match="data/20200101: train: no files"):
        deal({1: listed(), 2: listed()}, {1: 1, 2: 1})


def test_files_that_lie_outside_of_the_data_folder_have_names(tmp_path):
    data, other = tmp_path / "data", tmp_path / "other" / "train.json"
    other.parent.mkdir()
    other.write_text("12")
    (data / "20200101").mkdir(parents=True)
    (data / "20200101" / "train.json").write_text("1")
    told = listing(data, [other, data / "20200101" / "train.json"])
    assert json.loads(told) == [["../other/train.json", 2], ["20200101/train.json", 1]]
    assert (data / json.loads(told)[0][0]).read_text() == "12"
