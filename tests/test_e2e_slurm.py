"""Under a real Slurm: the lines of the docs, the same bits, an end when a host is cut off."""

import re
import sys
import time

import psutil
import pytest
from namespaces import Hosts
from running import ROOT, TINY, kill_all, params, run, same
from slurm_cluster import SlurmCluster
from tiny_task import make_data

pytestmark = pytest.mark.slow
RUN = ["--rounds", "3", "--sample-num", "12", "--shards", "1", "--private", "out.bias"]
SRUN = ["srun", "--mpi=pmi2", "--cpu-bind=none", "--overcommit", "--distribution=block"]
PATH = f"PYTHONPATH={ROOT}:{ROOT / 'tests'}"
# From the cut to the end of srun: 7 s until the peers know, 3 for the others to end, KillWait (5) and 2.
BOUND = 30.0


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    made = Hosts(tmp_path_factory.mktemp("hosts"), 4)
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


@pytest.fixture(scope="module")
def slurm(hosts, tmp_path_factory):
    made = SlurmCluster(hosts, tmp_path_factory.mktemp("slurm"))
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone")
    run(TINY, data, *RUN, "--output", output)
    return output


def test_block_puts_the_first_two_ranks_on_the_first_node(slurm):
    line = [*SRUN, "--nodes=4", "--ntasks=5", "-l", "printenv", "SLURMD_NODENAME"]
    placed = dict(re.findall(r"(\d): (node\d)", slurm.run(*line).stdout))
    assert placed == {"0": "node1", "1": "node1", "2": "node2", "3": "node3", "4": "node4"}


def test_srun_gives_the_bits_of_one_process(slurm, data, alone, tmp_path):
    command = ["env", PATH, sys.executable, str(TINY), str(data), *RUN, "--output", str(tmp_path)]
    done = slurm.run(*SRUN, "--nodes=4", "--ntasks=5", *command)
    assert "4 simulators, 4 shards, 4 hosts" in done.stdout
    assert same(params(tmp_path), params(alone))


def test_a_batch_script_without_srun_is_one_process(slurm, data, alone, tmp_path):
    script = tmp_path / "job.sh"
    output = tmp_path / "out"
    command = f"{sys.executable} {TINY} {data} {' '.join(RUN)} --output {output}"
    script.write_text(f"#!/bin/sh\n#SBATCH --nodes=4 --ntasks=5 --overcommit\n{PATH} {command}\n", encoding="utf-8")
    slurm.run("sbatch", "--wait", "--output", str(tmp_path / "log"), str(script))
    assert "1 simulator, 1 shard, 1 host" in (tmp_path / "log").read_text(encoding="utf-8")
    assert same(params(output), params(alone))


def test_a_plugin_that_does_not_fit_ends_the_run_with_one_line(slurm, data, tmp_path):
    command = ["env", PATH, sys.executable, str(TINY), str(data), *RUN, "--output", str(tmp_path / "out")]
    done = slurm.run("srun", "--mpi=none", "--nodes=2", "--ntasks=3", "--overcommit", *command, check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error: srun started 3 ranks" in line]
    assert "try srun --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI" in line
    assert not (tmp_path / "out").exists()


def test_srun_ends_when_a_host_is_cut_off(slurm, hosts, data, tmp_path):
    command = [
        "env",
        PATH,
        sys.executable,
        str(TINY),
        str(data),
        *RUN,
        "--rounds",
        "1000000",
        "--output",
        str(tmp_path),
    ]
    process = slurm.start(*SRUN, "--nodes=4", "--ntasks=5", *command)
    try:
        with process.stdout as output:
            for line in output:
                if " round " in line:
                    break
            hosts.cut_off(3)
            began = time.monotonic()
            said = output.read()
            process.wait(BOUND)
        assert time.monotonic() - began < BOUND
        assert process.returncode != 0
        assert re.search(r"rank 3 is gone|rank 3 at .* does not answer", said), said
    finally:
        hosts.join(3)
        if psutil.pid_exists(process.pid):
            kill_all(process)


def test_a_signal_of_slurm_stops_the_run_and_the_same_line_goes_on(slurm, data, tmp_path):
    """As a job that is about to be preempted or to run out of time is told (`--signal=USR1@90`)."""
    command = ["env", PATH, sys.executable, str(TINY), str(data), *RUN, "--rounds", "1000000", "--resume", "auto"]
    for said in ("", "resumed after round "):
        process = slurm.start(*SRUN, "--nodes=4", "--ntasks=5", *command, "--output", str(tmp_path / "out"))
        try:
            with process.stdout as output:
                lines = []
                for line in output:
                    lines.append(line)
                    if " round " in line and "resumed" not in line:
                        break
                (job,) = slurm.run("squeue", "-h", "-t", "R", "-o", "%i").stdout.split()
                slurm.run("scancel", "--signal=USR1", f"{job}.0")
                lines += output.readlines()
                process.wait(BOUND)
            assert process.returncode == 75, "".join(lines)
            assert said in "".join(lines)
            assert any("stopped by SIGUSR1 at rank" in line for line in lines)
        finally:
            if psutil.pid_exists(process.pid):
                kill_all(process)
