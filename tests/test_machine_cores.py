"""Cores for shards: what a process may use, what its container allows, and what others of the machine need."""

import os

import pytest

from simulator.machine.cores import cores_for_shards, cpu_limit, out_of_reach, own_cores


def groups(tmp_path, own, files):
    """A fake mount of control groups, and what /proc/self/cgroup says."""
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    return cpu_limit(tmp_path / "cgroup", tmp_path / "own")


V2, V1 = "0::/a/b\n", "4:memory:/m\n1:cpu,cpuacct:/docker/x\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        pytest.param(V2, {"a/b/cpu.max": "150000 100000\n"}, 1.5, id="its own group"),
        pytest.param(V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0, id="the group above"),
        pytest.param(V2, {"a/b/cpu.max": "300000 100000", "cpu.max": "50000 100000"}, 0.5, id="the least of all"),
        pytest.param("0::/\n", {"cpu.max": "400000 100000"}, 4.0, id="a container sees its own as the top"),
        pytest.param("0::/../b\n", {"cpu.max": "400000 100000"}, 4.0, id="a path from outside"),
        pytest.param(V2, {"a/b/cpu.max": "max 100000"}, None, id="no limit"),
        pytest.param("", {}, None, id="no groups"),
        pytest.param(
            V1, {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"},
            2.5, id="version 1",
        ),
        pytest.param(
            V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0, id="1 in a container"
        ),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, id="1 without"),
        pytest.param(V1, {"unified/cpu.max": "100000 100000"}, 1.0, id="both versions"),
    ],
)  # fmt: skip
def test_a_containers_limit_counts(tmp_path, own, files, limit):
    assert groups(tmp_path, own, files) == limit


def test_this_machine_can_be_asked():
    assert cpu_limit() is None or cpu_limit() > 0
    assert set(own_cores()) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("mine", "others", "limit", "cores"),
    [
        ([0, 1, 2, 3], [], None, 4),
        ([0, 1, 2, 3], [], 2.9, 2),
        ([0, 1, 2, 3], [], 0.5, 1),
        # Two simulators that may run anywhere share the cores and the limit.
        ([0, 1, 2, 3], [[0, 1, 2, 3]], None, 2),
        ([0, 1, 2, 3], [[0, 1, 2, 3]], 2.0, 1),
        # A launcher that ties each to its own cores has shared them already.
        ([0, 1], [[2, 3]], None, 2),
        ([0, 1, 2], [[2, 3, 4]], None, 2),
        ([0], [[0], [0]], None, 1),
        ([0, 1, 2], [[0, 1, 2], [0, 1, 2]], None, 1),
    ],
)
def test_cores_are_shared_with_the_other_simulators_of_the_machine(mine, others, limit, cores):
    assert cores_for_shards(mine, others, limit) == cores


def test_a_line_tells_of_cores_that_a_launcher_keeps_away():
    assert out_of_reach([0], 8, None) is None
    assert out_of_reach([0, 1, 2, 3, 4], 8, "Open MPI's mpirun") is None
    line = "Open MPI's mpirun lets this rank run on 1 of the machine's 8 cores; --bind-to none gives it all"
    assert out_of_reach([0], 8, "Open MPI's mpirun") == line
    assert "srun --cpu-bind=none" in out_of_reach([0, 1], 4, "srun")
