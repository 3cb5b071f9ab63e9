"""simulator/output/private_files.py: a file for each user, whatever its uid, and each says whose it is."""

import csv
import json
import unicodedata
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import TINY, run
from tiny_task import make_data

from protos.codec import to_bundle
from simulator.npz import read_npz
from simulator.output.private_files import file_name, save_private
from simulator.users.store import UserStore

pytestmark = pytest.mark.usefixtures("forks")

LONG = "u" * 300
HARD = [
    ".", "..", "/", "a/b", "a%2Fb", "a%2fb", "%2F", "../../etc/passwd", "a\\b", "a b", "a ", " a", "a.", "a", "A",
    "-rf", "new\nline", "return\r", "nul\0", unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"),
    "\U0001f469\u200d\U0001f4bb", LONG, LONG + "v",
]  # fmt: skip


def test_24_hard_uids_have_a_file_each(tmp_path):
    """The k-th uid has the parameter k, and each file tells its uid."""
    assert len(set(HARD)) == 24
    (tmp_path / "store").mkdir()
    store = UserStore(tmp_path / "store")
    for k, uid in enumerate(HARD):
        store.put_private(uid, 0, to_bundle({"w": np.array([k], np.float32)}).SerializeToString())
    save_private(store, tmp_path / "run")
    store.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["params"]
    found = {}
    for path in (tmp_path / "run" / "params" / "private").iterdir():
        with zipfile.ZipFile(path) as archive:
            found[archive.comment.decode()] = (path.name, read_npz(path, "private")["w"].tolist())
    assert found == {uid: (f"{file_name(uid)}.npz", [float(k)]) for k, uid in enumerate(HARD)}


def test_names_are_ordinary_and_tell_the_uid():
    assert file_name("user-1_b") == "user-1_b"
    assert file_name("a/é~") == "a%2F%C3%A9%7E"
    assert file_name("").startswith("~")


@pytest.mark.parametrize("length", [199, 200, 201, 1024])
def test_a_name_fits_the_file_system(length):
    for uid in ("x" * length, "\U0001f469" * length):
        name = file_name(uid)
        assert name.isascii()
        assert len(f".{name}.npz.part") <= 255
        # The name of a long uid, taken for a uid of its own, has another name.
        assert file_name(name) != name or length <= 200


UIDS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(HARD).map(file_name))


@given(UIDS, UIDS)
def test_two_uids_never_share_a_name(one, other):
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.slow
def test_a_run_of_hard_uids_can_be_read(tmp_path):
    """The real program: cohorts, tests and private files name each uid as it is."""
    uids = [uid for uid in HARD if "\0" not in uid]
    data = make_data(tmp_path / "data", users=len(uids))
    for path in data.rglob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({uids[int(name.removeprefix("user"))]: user for name, user in content.items()}))
    output = tmp_path / "run"
    run(TINY, data, "--rounds", 2, "--sample-num", len(uids), "--private", "norm.*", "--output", output, ranks=3)
    assert [sorted(cohort) for cohort in json.loads((output / "cohorts.json").read_text())] == [sorted(uids)] * 2
    with (output / "per_user.csv").open(encoding="utf-8", newline="") as file:
        assert sorted(row["uid"] for row in csv.DictReader(file)) == sorted(uids)
    names = {path.name for path in (output / "params" / "private").iterdir()}
    assert names == {f"{file_name(uid)}.npz" for uid in uids}
