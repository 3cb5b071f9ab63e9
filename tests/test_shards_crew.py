"""simulator/shards/crew.py with real processes that load no Paddle: what is left, and what ends a wait."""

import json
import os
import signal
import threading
import time
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import psutil
import pytest
from deadly_reader import DeadlyReader
from doors import keys

from protos.errors import BadInput, FLError, PeerLost, RunEnded
from protos.shared_arrays import unnamed_file
from scheduler.rules.samplers import Round
from scheduler.state.rounds import Share
from simulator.shards import jobs
from simulator.shards.crew import ShardCrash, ShardCrew, _as_error
from simulator.shards.pool import ShardPool
from simulator.shards.work_queue import WorkQueue
from simulator.users.store import UserStore

DAY = "20200101"
BOUND = 30.0


@pytest.fixture
def folder(tmp_path):
    """Files of one user each, and the folders of orders and of the store."""
    for name in ("orders", "store", DAY):
        (tmp_path / name).mkdir()
    for number in range(6):
        (tmp_path / DAY / f"train_{number}.json").write_text(json.dumps({f"user{number}": number + 1}))
    return tmp_path


@pytest.fixture
def pool(folder):
    (folder / "store").mkdir(exist_ok=True)
    store = UserStore(folder / "store")
    made = ShardPool(
        2, tune=False, rank=0, seed=0, weighted=True, private=None,
        reader=DeadlyReader(folder / "orders"), trainer=DeadlyReader(folder / "orders"), store=folder / "store",
    )  # fmt: skip
    made.ask_all(jobs.Connect({0: "nowhere"}, keys(0)))
    yield made
    made.kill()
    store.close()


def read(pool, folder):
    files = [(number, folder / DAY / f"train_{number}.json") for number in range(6)]
    users = pool.read_files(DAY, "train", files)
    assert users.weights == {uid: count / 2 for uid, count in users.counts.items()}
    return users.counts


WHOLE = {f"user{number}": number + 1 for number in range(6)}


def die(folder, number, deaths=1):
    for death in range(deaths):
        (folder / "orders" / f"die train_{number}.json {death}").write_text("")


def kill(pool, *indices):
    for index in indices:
        os.kill(pool.pids[index], signal.SIGKILL)
        # Not reaped here, so that its simulator finds what it finds in a run.
        os.waitid(os.P_PID, pool.pids[index], os.WEXITED | os.WNOWAIT)


def held(pool):
    """What a process may leave behind: open files, threads, children."""
    me = psutil.Process()
    alive = [child.pid for child in me.children() if child.status() != psutil.STATUS_ZOMBIE]
    assert sorted(set(alive) & set(pool.pids)) == sorted(pool.pids)
    return me.num_fds(), me.num_threads(), len(me.children())


@pytest.mark.slow
def test_twenty_deaths_leave_nothing_behind(pool, folder):
    assert read(pool, folder) == WHOLE
    before = held(pool)
    for death in range(10):
        if death % 2:
            kill(pool, 0, 1)
        else:
            die(folder, death % 6)
            die(folder, 5)
        assert read(pool, folder) == WHOLE
    assert held(pool) == before


def test_shards_that_were_killed_while_idle_are_replaced_at_the_next_job(pool, folder, caplog):
    first = pool.pids
    kill(pool, 0, 1)
    assert read(pool, folder) == WHOLE
    assert not set(first) & set(pool.pids)
    assert [message.split(" (process")[0] for message in caplog.messages] == ["shard 0", "shard 1"]
    assert all(message.endswith("another takes its place") for message in caplog.messages)


def test_idle_deaths_are_no_ones_fault(pool, folder):
    for _ in range(4):
        kill(pool, 0)
        assert read(pool, folder) == WHOLE


def test_a_shard_killed_before_a_job_of_the_set_up_is_replaced(pool, folder):
    kill(pool, 1)
    pool.ask_all(jobs.Setup({}))
    assert read(pool, folder) == WHOLE


@pytest.mark.slow
def test_two_deaths_at_each_file_are_borne(pool, folder):
    for number in range(6):
        die(folder, number, deaths=2)
    assert read(pool, folder) == WHOLE


def test_the_third_death_at_one_file_is_not(pool, folder):
    die(folder, 3, deaths=3)
    with pytest.raises(FLError, match=r"died at file .*train_3\.json \(signal 9\), as did 2 before it; the system may"):
        read(pool, folder)


def test_deaths_of_an_earlier_call_do_not_count(pool, folder):
    for _ in range(2):
        die(folder, 3, deaths=2)
        assert read(pool, folder) == WHOLE


def test_users_whose_weigher_dies_are_weighed_by_another(pool, folder, caplog):
    uids = sorted(WHOLE)
    read(pool, folder)
    for count in (2, 5):
        (folder / "orders" / f"die weigh{count} 0").write_text("")
    assert pool.weigh(DAY, uids) == {uid: count / 2 for uid, count in WHOLE.items()}
    assert "died at date 20200101, uid 'user1' (signal 9)" in caplog.text
    assert " weighed again" in caplog.text
    for death in range(3):
        (folder / "orders" / f"die weigh3 {death}").write_text("")
    with pytest.raises(FLError, match=r"died at date 20200101, uid .user2. .*, as did 2 before it"):
        pool.weigh(DAY, uids)


def test_a_shard_that_ends_by_itself_has_died_too(pool, folder, caplog):
    (folder / "orders" / "exit train_2.json").write_text("")
    assert read(pool, folder) == WHOLE
    assert "(exit status 3)" in caplog.text
    assert "memory" not in caplog.text


def test_a_shard_that_closes_its_pipe_is_ended_and_the_store_stays(pool, folder):
    (folder / "orders" / "close train_2.json").write_text("")
    assert read(pool, folder) == WHOLE
    assert (folder / "store" / "data.mdb").exists()


def test_user_code_that_leaves_is_said_to_and_not_tried_again(pool, folder, caplog):
    """The interpreter may not come to its end while gRPC has threads, and a mistake is no accident."""
    (folder / "orders" / "leave train_2.json").write_text("")
    with pytest.raises(ShardCrash, match=r"file .*train_2\.json failed:[^$]*SystemExit: no more"):
        read(pool, folder)
    assert caplog.messages == []


def test_a_job_of_the_set_up_at_which_a_new_shard_fails_ends_the_run(pool, folder):
    (folder / "orders" / "fail setup later").write_text("")
    pool.ask_all(jobs.Setup({}))
    (folder / "orders" / "fail setup later").rename(folder / "orders" / "fail setup")
    kill(pool, 0)
    with pytest.raises(ShardCrash, match="no set-up"):
        read(pool, folder)


@pytest.mark.parametrize("order", ["die setup", "exit setup"])
def test_a_new_shard_that_dies_in_its_set_up_is_tried_three_times(pool, folder, order, caplog):
    pool.ask_all(jobs.Setup({}))
    for death in range(9):
        (folder / "orders" / f"{order} {death}").write_text("")
    kill(pool, 0)
    with pytest.raises(
        FLError, match=r"^shard 0 \(process \d+\) died \((signal 9|exit status 3)\), as did 2 before it"
    ):
        read(pool, folder)
    assert len(caplog.messages) == 3


def test_a_death_in_the_set_up_itself_ends_the_run(pool, folder, caplog):
    (folder / "orders" / "die setup").write_text("")
    with pytest.raises(
        FLError, match=r"^shard [01] \(process \d+\) died while it was set up \(signal 9\); the system may"
    ):
        pool.ask_all(jobs.Setup({}))
    assert caplog.messages == []


def test_bad_input_is_not_tried_again(pool, folder, caplog):
    (folder / DAY / "train_4.json").write_text('{"user4": 0}')
    with pytest.raises(BadInput, match=r"train_4\.json"):
        read(pool, folder)
    assert caplog.messages == []


@pytest.mark.parametrize("moment", ["train_1.json", "setup"])
def test_an_interrupt_ends_the_wait_while_a_shard_works_or_starts(pool, folder, moment):
    """As when the run fails elsewhere."""
    pool.ask_all(jobs.Setup({}))
    fifo = folder / "orders" / f"wait {moment}"
    os.mkfifo(fifo)
    if moment == "setup":
        kill(pool, 0)

    def interrupt():
        with fifo.open("rb") as waits:  # returns when the shard has opened it too
            pool.interrupt(RunEnded("elsewhere"))
            waits.read()

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(RunEnded, match="elsewhere"):
            read(pool, folder)
        assert time.monotonic() - began < BOUND
    finally:
        pool.kill()
        thread.join()


def test_the_processes_end_with_the_pool(pool, folder):
    kill(pool, 0)
    read(pool, folder)
    processes = [psutil.Process(pid) for pid in pool.pids]
    kill(pool, 1)
    pool.close()
    assert not any(process.is_running() for process in processes)
    assert Path(folder / "store").exists()


def test_a_peer_that_a_shard_cannot_reach_is_told_apart_from_bad_input():
    """Whoever waits then asks whether the run has failed over there."""
    error = _as_error(jobs.Failed("date 20200101, round 2, uid 'a'", "the data server of rank 2 is gone", True, True))
    assert type(error) is PeerLost
    assert str(error) == "date 20200101, round 2, uid 'a': the data server of rank 2 is gone"


class Scripted:
    """In the place of a shard's process: answers every job, knows what was told, and is dead if asked for."""

    pid, answered = 0, True

    def __init__(self):
        self.dead, self.got = False, []
        self.connection, self._other = Pipe()

    def send(self, job):
        if self.dead:
            raise BrokenPipeError
        self.got.append(job)
        # As `worker.main`: what was told is forgotten by the next job, and a go without it means nothing.
        if not isinstance(job, jobs.Go) or isinstance(self.got[-2], jobs.Ahead):
            self._other.send(jobs.Done("done"))

    def send_pickled(self, message):
        self.got.append(ForkingPickler.loads(message))

    def receive(self):
        return self.connection.recv()

    def bury(self):
        return -9

    def release(self):
        self.connection.close()
        self._other.close()

    kill = release


def test_a_shard_that_was_just_started_is_not_told_a_job_ahead_of_those_before_it(tmp_path):
    """A shard that died idle is noticed when it is to begin, and its successor has the set-up still to do."""
    queue = WorkQueue(unnamed_file("queue"))
    queue.fill(0)
    made = []

    def start(index):
        made.append(Scripted())
        return made[-1]

    crew = ShardCrew(start, 2, queue)
    first, second, third = (jobs.TrainShare(Round(0, DAY, n, n - 1), Share((), ())) for n in (1, 2, 3))
    crew.remember(jobs.Setup({}))
    crew.do({0: first, 1: first}, lambda: crew.tell(jobs.Ahead(second, 2)))
    made[1].dead = True
    crew.do({0: second, 1: second}, lambda: crew.tell(jobs.Ahead(third, 2)))
    assert set(crew.do({0: third, 1: third})) == {0, 1}
    assert [type(job) for job in made[2].got] == [jobs.Setup, jobs.TrainShare, jobs.TrainShare]
    assert [type(job) for job in made[0].got[1:]] == [jobs.Ahead, jobs.Go, jobs.Ahead, jobs.Go]
    crew.kill()
