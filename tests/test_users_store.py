"""simulator/users/store.py and simulator/users/examples.py: one simulator's users, on disk, for many processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.errors import BadInput, FLError, WrongState
from simulator.users.examples import check_examples, join_examples
from simulator.users.scratch import remove_folder
from simulator.users.store import UserRecord, UserStore

DAY, NEXT = "20200101", "20200102"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path):
    made = UserStore(tmp_path)
    yield made
    made.close()


def record(uid, payload, order=(0, 0), date=DAY, split="train"):
    return UserRecord(uid, date, split, order, payload)


# -- examples ----------------------------------------------------------------------


def test_pieces_come_back_in_the_order_of_file_and_place(store):
    orders = [(300, 0), (2, 1), (0, 7), (2, 0), (0, 256)]
    assert store.put_examples(record("a", str(order).encode(), order) for order in orders) == 5
    assert store.get_examples("a", DAY, "train") == [str(order).encode() for order in sorted(orders)]


def test_users_days_and_splits_are_kept_apart(store):
    store.put_examples([record("a", b"1"), record("b", b"2"), record("a", b"3", date=NEXT)])
    store.put_examples([record("a", b"4", split="test")])
    assert store.get_examples("a", DAY, "train") == [b"1"]
    assert store.get_examples("b", DAY, "train") == [b"2"]
    assert store.get_examples("a", NEXT, "train") == [b"3"]
    assert store.get_examples("a", DAY, "test") == [b"4"]
    assert store.get_examples("c", DAY, "train") == []
    assert store.get_examples("b", DAY, "test") == []


def test_a_cleared_day_is_gone_and_its_users_are_still_known(store):
    store.put_examples([record("a", b"1"), record("a", b"2", (1, 0)), record("b", b"3")])
    store.put_examples([record("a", b"4", split="test"), record("b", b"5", date=NEXT)])
    assert store.clear_examples(DAY, "train") == 3
    assert store.get_examples("a", DAY, "train") == store.get_examples("b", DAY, "train") == []
    assert store.get_examples("a", DAY, "test") == [b"4"]
    assert store.get_examples("b", NEXT, "train") == [b"5"]
    assert store.clear_examples(DAY, "train") == 0
    assert store.knows("a")
    assert not store.knows("c")


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=600), st.binary(max_size=30)))
def test_any_uid_is_a_key(tmp_path_factory, users):
    store = UserStore(tmp_path_factory.mktemp("store"))
    try:
        store.put_examples(record(uid, payload) for uid, payload in users.items())
        for step, (uid, payload) in enumerate(users.items()):
            assert store.get_examples(uid, DAY, "train") == [payload]
            store.put_private(uid, step, payload)
        assert {uid: payload for uid, _, payload in store.all_private()} == users
    finally:
        store.close()


def test_records_are_stored_together_or_not_at_all(store):
    def records():
        yield record("a", b"1")
        raise ValueError("the reader failed")

    with pytest.raises(ValueError, match="the reader failed"):
        store.put_examples(records())
    assert store.get_examples("a", DAY, "train") == []
    assert not store.knows("a")


# -- private parameters ------------------------------------------------------------


def test_a_round_sees_the_private_parameters_it_began_with(store):
    """Stored in rounds 3 and 5: before 4 it is the one of 3, before 6 the one of 5, before 3 there is none."""
    store.put_private("a", 3, b"three")
    store.put_private("a", 5, b"five")
    seen = {step: store.get_private("a", step) for step in (0, 3, 4, 5, 6, 99)}
    assert seen == {0: None, 3: None, 4: b"three", 5: b"three", 6: b"five", 99: b"five"}
    assert store.get_private("b", 9) is None


def test_a_round_that_is_trained_again_replaces_its_own_version_only(store):
    for step, payload in ((3, b"three"), (5, b"five"), (5, b"five again")):
        store.put_private("a", step, payload)
    assert store.get_private("a", 5) == b"three"
    assert store.get_private("a", 6) == b"five again"


def test_a_late_write_of_an_earlier_round_pushes_out_no_newer_one(store):
    """What a shard sent before it died may be handled after the one in its place went on."""
    for step in (3, 5, 7):
        store.put_private("a", step, bytes([step]))
    with pytest.raises(WrongState, match="of round 3 of the run came, those of round 7 are there"):
        store.put_private("a", 3, bytes([3]))
    store.put_private("a", 5, bytes([5]))  # of one that is kept: the same bits again
    assert [store.get_private("a", step) for step in (5, 6, 7, 8)] == [None, bytes([5]), bytes([5]), bytes([7])]


def test_no_more_than_two_versions_are_kept(store):
    for step in range(5):
        store.put_private("a", step, bytes([step]))
    assert [store.get_private("a", step) for step in (3, 4, 5)] == [None, bytes([3]), bytes([4])]


def test_all_private_gives_everybodys_newest(store):
    store.put_private("a", 1, b"old")
    store.put_private("a", 4, b"new")
    store.put_private("é", 2, b"")
    assert sorted(store.all_private()) == [("a", 4, b"new"), ("é", 2, b"")]


OTHER_PROCESS = """
import sys
from pathlib import Path
from simulator.users.scratch import remove_folder
from simulator.users.store import UserRecord, UserStore
store = UserStore(Path(sys.argv[1]))
print(store.get_examples("a", "20200101", "train"), flush=True)
sys.stdin.readline()
print(store.get_examples("a", "20200101", "train"), flush=True)
store.put_private("a", 0, b"from the other")
store.put_examples([UserRecord("b", "20200101", "train", (0, 0), b"theirs")])
print("written", flush=True)
"""


def test_two_processes_see_what_the_other_writes(store, tmp_path):
    store.put_examples([record("a", b"1")])
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "[b'1']\n"
            store.put_examples([record("a", b"2", (0, 1))])
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "[b'1', b'2']\n"
            assert other.stdout.readline() == "written\n"
            assert other.wait(20) == 0
        finally:
            other.kill()
    assert store.get_private("a", 1) == b"from the other"
    assert store.get_examples("b", DAY, "train") == [b"theirs"]


# -- what a reader yields ----------------------------------------------------------


def test_examples_are_counted_by_rows():
    assert check_examples("a", {"x": np.zeros((3, 5), np.float32), "y": np.zeros(3, np.int64)}) == 3


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({}, "uid 'a': no arrays"),
        ({"x": np.zeros((0, 2))}, "uid 'a' has no examples"),
        ({"x": [1, 2]}, "uid 'a': 'x' is not an array with one row an example, but list"),
        ({"x": np.array(3.0)}, "uid 'a': 'x' is not an array with one row an example"),
        ({"x": np.array(["word"])}, "uid 'a': 'x' has dtype <U4"),
        ({"x": np.array([{}], object)}, "uid 'a': 'x' has dtype object"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "uid 'a': arrays do not match, rows are .*'x': 2, 'y': 3"),
    ],
)
def test_examples_that_cannot_be_are_refused(examples, message):
    with pytest.raises(BadInput, match=message):
        check_examples("a", examples)


def test_a_users_files_are_joined_in_order():
    parts = [{"x": np.array([[1, 2]]), "y": np.array([1])}, {"y": np.array([2, 3]), "x": np.array([[3, 4], [5, 6]])}]
    joined = join_examples("a", parts)
    assert joined["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert joined["y"].tolist() == [1, 2, 3]


def test_files_that_do_not_fit_together_are_refused():
    with pytest.raises(BadInput, match=r"uid 'a': its files give different arrays, \['x'\] and \['x', 'y'\]"):
        join_examples("a", [{"x": np.zeros(1)}, {"x": np.zeros(1), "y": np.zeros(1)}])
    with pytest.raises(BadInput, match="uid 'a': its files' arrays cannot be joined"):
        join_examples("a", [{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}])


# -- killed processes --------------------------------------------------------------

HELD = """
import sys
from pathlib import Path
from simulator.users.scratch import remove_folder
from simulator.users.store import UserRecord, UserStore

store = UserStore(Path(sys.argv[1]))

def records():
    yield UserRecord("half", "20200101", "train", (0, 0), bytes(100_000))
    print("ready", flush=True)
    sys.stdin.readline()

store.put_examples(records())
"""

WRITING = """
import sys
from pathlib import Path
from simulator.users.store import UserStore

store = UserStore(Path(sys.argv[1]))
for step in range(1_000_000):
    store.put_private("a", step, step.to_bytes(4, "big") * 5_000)
    if step % 10 == 0:
        print(step, flush=True)
"""

READING = """
import sys
from pathlib import Path
from simulator.users.store import UserStore

store = UserStore(Path(sys.argv[1]))
transaction = store._env.begin()
print("ready", flush=True)
sys.stdin.readline()
"""


def other_process(code, folder):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, **pipes)


def test_a_process_killed_within_a_transaction_stops_nobody_and_leaves_nothing(store, tmp_path):
    store.put_examples([record("a", b"1")])
    with other_process(HELD, tmp_path) as killed:
        assert killed.stdout.readline() == "ready\n"
        killed.kill()
    store.put_examples([record("b", b"2")])
    assert [store.get_examples(uid, DAY, "train") for uid in ("a", "b", "half")] == [[b"1"], [b"2"], []]


def test_a_process_killed_while_it_writes_leaves_whole_versions(store, tmp_path):
    for kill_at in range(3):
        with other_process(WRITING, tmp_path) as killed:
            for _ in range(kill_at + 2):
                killed.stdout.readline()
            killed.kill()
        ((step, payload),) = [(step, payload) for uid, step, payload in store.all_private() if uid == "a"]
        assert payload == step.to_bytes(4, "big") * 5_000
        store.put_private("b", kill_at, b"next")
        assert store.get_private("b", kill_at + 1) == b"next"


def test_who_opens_the_store_frees_the_places_of_killed_readers(store, tmp_path):
    before = len(store._env.readers().splitlines())
    for _ in range(3):
        with other_process(READING, tmp_path) as killed:
            assert killed.stdout.readline() == "ready\n"
            killed.kill()
    assert len(store._env.readers().splitlines()) <= before + 1


def test_a_folder_that_is_removed_is_not_made_anew(tmp_path):
    """As when a shard starts while another removes what their killed simulator has left."""
    folder = tmp_path / "flsim-x"
    folder.mkdir()
    UserStore(folder).close()
    remove_folder(folder)
    remove_folder(folder)
    with pytest.raises(FLError, match="No such file"):
        UserStore(folder)
    assert list(tmp_path.iterdir()) == []
