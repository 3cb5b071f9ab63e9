"""What a reader of one's own may get wrong: one line with the file, the uid, the class and what to do."""

from pathlib import Path

import numpy as np
import pytest
from mistakes_task import MistakenReader, make_data
from running import ROOT, run

from protos.errors import BadInput
from simulator.shards import jobs
from simulator.users.examples import check_user
from simulator.worker.file_reading import read_files

pytestmark = pytest.mark.usefixtures("forks")

PATH = Path("data/20200101/train.json")
MUST = "it must yield (uid, {name: array}) for each user"
SAID = {
    "none": f"MistakenReader.read returns None; {MUST}",
    "a number": f"MistakenReader.read returns 7; {MUST}",
    "a dict": f"MistakenReader.read returns a dict; {MUST}",
    "uids alone": f"MistakenReader.read yields 'ab'; {MUST}",
    "triples": "MistakenReader.read yields ('a', {'x': array(",
    "a list of arrays": "uid 'a': its examples are [array([1., 1., 1.])]; they must be a dict of name -> array",
    "an int uid": "uid 17 is of type int; a uid is a str, so let MistakenReader.read yield str(uid)",
    "a NumPy uid": "is of type int64; a uid is a str, so let MistakenReader.read yield str(uid)",
    "a bytes uid": "uid b'u1' is of type bytes; a uid is a str, so let MistakenReader.read yield uid.decode()",
    "half a surrogate": "uid 'a\\ud800' is no valid text: it has half of a surrogate pair; let MistakenReader.read",
    "an empty uid": "uid '' has 0 characters; 1 to 1024 are allowed",
    "a long uid": "has 1025 characters; 1 to 1024 are allowed",
    "a uid with NUL": "uid 'a\\x00b' has a NUL character; let MistakenReader.read leave it out",
}


class Client:
    """Takes what is read."""

    def __init__(self):
        self.taken = []

    def owner(self, uid):
        return 1

    def send_data(self, owner, records):
        self.taken += records


def read(mistake):
    client, job = Client(), jobs.ReadFiles("20200101", "train", ((0, PATH),))
    read_files(MistakenReader(mistake), client, job, [0], lambda path: None, lambda uid, examples: 1.0)
    return client.taken


@pytest.mark.parametrize("mistake", SAID)
def test_a_reader_that_breaks_the_contract_is_told_how_to_keep_it(mistake):
    with pytest.raises(BadInput) as caught:
        read(mistake)
    said = str(caught.value)
    assert said.startswith(f"{PATH}: ")
    assert SAID[mistake] in said
    assert "\n" not in said
    said.encode()  # can be written to any terminal's log
    assert len(said) < 300


def test_a_reader_may_return_a_list_of_pairs():
    assert [record.uid for record in read("a list of pairs")] == ["a", "b"]


def test_text_of_numpy_is_text():
    uid, _ = check_user("Reader", (np.str_("user"), {}))
    assert (uid, type(uid)) == ("user", str)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["none", "an int uid", "half a surrogate"])
def test_a_run_ends_with_that_line(tmp_path, mistake):
    page, data = ROOT / "tests" / "mistakes_task.py", make_data(tmp_path / "data")
    done = run(page, data, "--mistake", mistake, "--shards", 1, "--output", tmp_path / "out", check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rank 0: {data / '20200101' / 'train.json'}: ")
    assert SAID[mistake] in line
