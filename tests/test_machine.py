"""What a simulator does with its machine: a shard's environment, the scratch folder, the progress it shows."""

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from running import ROOT

from scheduler.rules.metrics import UserResult
from scheduler.rules.samplers import Round
from scheduler.service.messages import Layout, SimulatorInfo
from scheduler.state.rounds import RoundRecord, Timings
from simulator.launch.addresses import temporary_folder
from simulator.launch.role_maker import FLSimRoleMaker
from simulator.output.progress import RunProgress
from simulator.shards.environment import cpu_vendor, shard_environment
from simulator.users.scratch import ScratchFolder

# -- a shard's environment ---------------------------------------------------------

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "2",
}


def environment(environ=None, *, tune=True, cpu="AuthenticAMD"):
    return shard_environment(environ or {}, tune=tune, cpu=cpu)


def test_mkl_is_told_of_avx2_on_amd_only():
    assert environment(cpu="AuthenticAMD")["MKL_DEBUG_CPU_TYPE"] == "5"
    assert "MKL_DEBUG_CPU_TYPE" not in environment(cpu="GenuineIntel")


def test_memory_is_kept_on_every_cpu():
    for cpu in ("AuthenticAMD", "GenuineIntel", "other"):
        assert MALLOC.items() <= environment(cpu=cpu).items()


def test_without_tuning_nothing_is_added_for_speed():
    plain = environment({"HOME": "/root"}, tune=False)
    assert not {*MALLOC, "MKL_DEBUG_CPU_TYPE"} & set(plain)
    assert plain["HOME"] == "/root"
    assert plain["OMP_NUM_THREADS"] == "1"


def test_what_the_user_has_set_is_kept():
    mine = {"MALLOC_TOP_PAD_": "1", "MKL_DEBUG_CPU_TYPE": "4", "CUDA_VISIBLE_DEVICES": "0", "FLAGS_x": "y"}
    assert mine.items() <= environment(mine).items()
    assert environment()["CUDA_VISIBLE_DEVICES"] == ""


# Each thread in turn takes and gives back 4 MiB, in pieces that come from its arena, while the others live on.
THREADS = """
import os, sys, threading
import psutil
from simulator.machine.malloc_arenas import limit_arenas
if "limit" in sys.argv:
    print(limit_arenas(os.environ), end=" ")
together, done, turn = threading.Barrier(13), threading.Barrier(13), threading.Lock()
def work():
    together.wait()
    with turn:
        pieces = [b"x" * (64 << 10) for _ in range(64)]
        kept = bytearray(1 << 10)  # what lies above the pieces keeps them from the system
        del pieces
    done.wait()
    together.wait()
for _ in range(12):
    threading.Thread(target=work, daemon=True).start()
before = psutil.Process().memory_full_info().uss
together.wait()
done.wait()
print(psutil.Process().memory_full_info().uss - before)
"""


def grown_by(*arguments, **variables):
    command = [sys.executable, "-c", THREADS, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def test_threads_of_a_rank_share_arenas():
    (free,), (said, shared) = grown_by(), grown_by("limit")
    assert said == "True"
    assert int(shared) < int(free) / 2


def test_arenas_that_the_user_has_set_are_kept():
    said, _ = grown_by("limit", MALLOC_ARENA_MAX="40")
    assert said == "False"


@pytest.mark.parametrize("seed", [None, "random", "7"])
def test_every_shard_walks_a_set_of_strings_in_the_same_order(seed):
    """Python draws the seed of its hashes anew in each process: one of 20! orders."""
    code = "print(list({str(i) for i in range(20)}))"

    def order():
        given = {**os.environ, "PYTHONHASHSEED": seed} if seed else os.environ
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment(given), capture_output=True, text=True, check=True).stdout

    first = order()
    assert "'19'" in first
    assert (
        order()
        == first
        == subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True
        ).stdout
    )


def test_a_shard_has_one_thread_whatever_the_machine_is_set_to():
    """Sums of several threads are not bit for bit the same from run to run."""
    several = {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8"}
    assert environment(several).items() >= dict.fromkeys(several, "1").items()


def test_a_shard_finds_what_its_simulator_finds(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "/mine", "/site-packages"])
    assert environment({"PYTHONPATH": "/other"})["PYTHONPATH"].split(os.pathsep) == [
        str(Path.cwd()), "/mine", "/site-packages",
    ]  # fmt: skip


def test_the_machine_is_asked_for_its_vendor(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self, **_: "processor : 0\nvendor_id\t: GenuineIntel\nflags : x\n")
    assert cpu_vendor() == "GenuineIntel"
    assert "MKL_DEBUG_CPU_TYPE" not in environment(cpu=None)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: "Processor : ARM\n")
    assert cpu_vendor() == ""


# -- who plays which part ----------------------------------------------------------


class Comm:
    """The part of an MPI communicator that is used: every rank gathers what `values` says."""

    def __init__(self, rank, values):
        self.rank, self.values = rank, [json.dumps(value).encode() for value in values]

    def Get_rank(self):  # noqa: N802
        return self.rank

    def Get_size(self):  # noqa: N802
        return len(self.values)

    def Allgather(self, mine, sizes):  # noqa: N802
        sizes[:] = [len(value) for value in self.values]

    def Allgatherv(self, mine, gathered):  # noqa: N802
        gathered[0][:] = np.frombuffer(b"".join(self.values), np.uint8)


@pytest.mark.parametrize(
    ("rank", "hosts", "parts"),
    [
        (0, ["me"], (True, True, (0,))),
        (0, ["me", "me"], (True, False, (1,))),
        (1, ["me", "me"], (False, True, (1,))),
        (2, ["a", "me", "me", "b"], (False, True, (1, 2, 3))),
    ],
)
def test_rank_0_schedules_and_the_others_simulate(rank, hosts, parts):
    # Two machines of one name are two machines.
    role = FLSimRoleMaker(Comm(rank, [("node", host, [0, 1], *temporary_folder()) for host in hosts]))
    assert role.hosts == ["node"] * len(hosts)
    assert role.spans_hosts == (len(set(hosts)) > 1)
    assert (role.is_scheduler(), role.is_simulator(), role.simulator_ranks) == parts


def test_simulators_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("simulator.launch.role_maker.cpu_limit", lambda: None)
    cores = [("a", [0, 1, 2, 3]), ("me", [0, 1, 2, 3]), ("me", [0, 1, 2, 3]), ("b", [0])]
    told = [("node", place, mine, *temporary_folder()) for place, mine in cores]
    assert [FLSimRoleMaker(Comm(rank, told)).cores_for_shards() for rank in (1, 2, 3)] == [2, 2, 1]


def test_without_a_launcher_one_process_is_both(monkeypatch):
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    role = FLSimRoleMaker()
    assert (role.rank, role.size, role.is_scheduler(), role.is_simulator()) == (0, 1, True, True)
    role.secure()
    assert role.where_to_listen(Path("/tmp/x")) == "unix:/tmp/x/socket"
    assert (set(role.keys.tickets), role.keys.credentials) == ({0}, None)
    assert role.share("x") == "x"
    assert role.agree(None) is None
    assert role.agree("a problem") == "a problem"


# -- the scratch folder ------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind(parent, name, *, age=3600.0):
    folder = parent / name
    folder.mkdir()
    (folder / "alive").touch()
    (folder / "data.mdb").write_bytes(b"x")
    then = time.time() - age
    os.utime(folder, (then, then))
    return folder


def test_a_scratch_folder_is_gone_when_it_is_removed(temporary):
    scratch = ScratchFolder()
    (scratch.path / "sub").mkdir()
    (scratch.path / "sub" / "file").touch()
    assert scratch.path.parent == temporary
    scratch.remove()
    assert list(temporary.iterdir()) == []


def test_folders_of_killed_runs_are_swept_and_no_others(temporary):
    dead, half = left_behind(temporary, "flsim-dead"), left_behind(temporary, "flsim-half.gone")
    (half / "alive").unlink()
    os.utime(half, (time.time() - 3600,) * 2)
    young = left_behind(temporary, "flsim-young", age=5.0)
    foreign = left_behind(temporary, "other-dead")
    live = left_behind(temporary, "flsim-live")
    with (live / "alive").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = ScratchFolder()
    assert not dead.exists()
    assert not half.exists()
    assert all((folder / "data.mdb").exists() for folder in (young, foreign, live))
    scratch.remove()


def test_a_folder_in_use_is_not_swept_by_the_next_run(temporary):
    first = ScratchFolder()
    old = time.time() - 3600
    os.utime(first.path, (old, old))
    second = ScratchFolder()
    assert first.path.exists()
    first.remove()
    second.remove()


# -- progress ----------------------------------------------------------------------


def finished(number, loss=3.0, phase="train"):
    results = (UserResult("a", 1, 1.0, {"loss": (loss, 2.0)}),)
    return RoundRecord(phase, Round(0, "20200101", number, number - 1), results, 1.25, Timings())


def play(progress, rounds):
    progress.begin(rounds)
    for number in range(1, rounds + 1):
        progress.on_record(finished(number))
        progress.on_record(finished(number, phase="test"))
    progress.end()


def test_plain_progress_says_the_first_and_the_last_round(caplog):
    with caplog.at_level(logging.INFO):
        play(RunProgress("plain"), 4)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "round 1/4 loss 1.5000 1.25 s",
        "round 4/4 loss 1.5000 1.25 s",
    ]
    assert all(message.endswith("s left") for message in caplog.messages)


def test_no_progress_says_nothing_of_rounds(caplog, capsys):
    with caplog.at_level(logging.INFO):
        play(RunProgress("none"), 3)
    assert caplog.messages == []
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_and_removed(capsys, caplog):
    with caplog.at_level(logging.INFO):
        play(RunProgress("bar"), 2)
    shown = capsys.readouterr().out
    assert "2/2" in shown
    assert "loss 1.5000 1.25 s" in shown
    assert caplog.messages == []


def test_the_start_says_who_takes_part_and_how_large_the_model_is(caplog):
    progress = RunProgress("plain")
    infos = tuple(SimulatorInfo(rank, f"host{rank // 3}", "", 2, ()) for rank in (1, 2, 3))
    with caplog.at_level(logging.INFO):
        progress.on_layout(Layout(infos, ()))
        progress.on_initial({"w": np.zeros((3, 4)), "b": np.zeros(5)})
    took_part, model = caplog.messages
    assert re.fullmatch(r"3 simulators\D+6 shards\D+2 hosts", took_part)
    assert model == "17 shared parameters"
