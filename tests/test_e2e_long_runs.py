"""Long runs: nothing of a job grows with its rounds."""

import signal
from pathlib import Path

import pytest
from running import TINY, kill_all, start, tree, wait_until
from tiny_task import make_data

EARLY, LATE = 300, 2_000
SLACK = 768 << 10
# A server's pool starts its threads as they are first needed, up to its size.
POOL = 4


def shared_files(process):
    """Files without a name, and those of /dev/shm, that a process has open or mapped."""
    found = [str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
    found += [" ".join(line.split()[5:]) for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()]
    return sorted(name for name in found if "memfd:" in name or "/dev/shm" in name)


def measure(process):
    """Memory, open files, threads and shared files of each process of a job, which stands still meanwhile."""
    parts = [each for each in tree(process) if "python" in each.name()]
    for each in parts:
        each.send_signal(signal.SIGSTOP)
    try:
        return [(p.memory_full_info().uss, p.num_threads(), (p.num_fds(), shared_files(p))) for p in parts]
    finally:
        for each in parts:
            each.send_signal(signal.SIGCONT)


def wait_for_round(process, path, number):
    """Returns when so many rounds are in a metrics.csv."""
    wait_until(process, lambda: path.exists() and path.read_bytes().count(b"\n") > number)


@pytest.mark.slow
def test_nothing_grows_from_round_300_to_round_2000(tmp_path):
    data = make_data(tmp_path / "data", users=6, days=("20200101",))
    flags = ["--rounds", LATE + 300, "--sample-num", 3, "--shards", 1, "--test-sampler", "none", "--progress", "none",
             "--private", "out.bias", "--output", tmp_path / "run"]  # fmt: skip
    process = start(TINY, data, *flags, ranks=3)
    try:
        wait_for_round(process, tmp_path / "run" / "metrics.csv", EARLY)
        early = measure(process)
        wait_for_round(process, tmp_path / "run" / "metrics.csv", LATE)
        late = measure(process)
        process.stdout.read()
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            kill_all(process)
        process.stdout.close()
    assert len(early) == len(late) == 5  # a scheduler, two simulators, a shard each
    memory = [(before[0], after[0]) for before, after in zip(early, late, strict=True)]
    assert all(after <= before * 1.02 + SLACK for before, after in memory), memory
    threads = [(before[1], after[1]) for before, after in zip(early, late, strict=True)]
    assert all(after <= before + POOL for before, after in threads), threads
    assert [rest for *_, rest in late] == [rest for *_, rest in early]
