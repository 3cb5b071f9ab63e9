"""run() returns a result or raises, as often as one likes, and leaves the process as it was."""

import gc
import logging
import os
import resource
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from running import ROOT, TINY, metrics, params, read_until, run, same, start, tree
from tiny_task import TinyReader, TinyTrainer, make_data

import simulator
from protos.errors import BadInput, FLError, RunStopped
from scheduler import FedAdam
from simulator import Settings
from simulator.callbacks import Callback
from simulator.output.record_folder import RecordFolder

SLOW = pytest.mark.slow
SMALL = {"rounds": 2, "sample_num": 4, "shards": 1, "progress": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def play(data, output, *, ranks=1, trainer=None, more=None, **settings):
    given = Settings(data=data, output=output, **{**SMALL, **settings})
    return simulator.run(given, reader=TinyReader(), trainer=trainer or TinyTrainer(), ranks=ranks, **(more or {}))


# -- the result ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    """The record of the same run as a page."""
    output = tmp_path_factory.mktemp("page") / "run"
    run(TINY, data, "--rounds", 2, "--sample-num", 4, "--shards", 1, "--output", output)
    return output


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_the_result_is_that_of_a_page(data, tmp_path, page, ranks):
    result = play(data, tmp_path / "run", ranks=ranks)
    assert (result.folder, result.stopped, result.metric) == (tmp_path / "run", None, "top1")
    assert same(result.params, params(page))
    rows = metrics(page)
    assert result.metrics["phase"] == ["train", "train", "test"]
    assert result.metrics["round"] == [1, 2, 2]
    assert [repr(v) for v in result.metrics["loss"]] == [row["loss"] for row in rows]
    assert result.value == float(rows[-1]["top1"])
    assert len(result.users["uid"]) == 12
    hits = sum(v * n for v, n in zip(result.users["top1"], result.users["top1_count"], strict=True))
    assert hits / sum(result.users["top1_count"]) == pytest.approx(result.value, abs=1e-12)


@SLOW
def test_pandas_takes_the_columns(data, tmp_path):
    pandas = pytest.importorskip("pandas")
    result = play(data, tmp_path / "run", test_sampler="none")
    table = pandas.DataFrame(result.metrics)
    assert list(table["date"]) == ["20200101"] * 2
    assert table["users"].dtype.kind == "i"
    assert table["loss"].dtype.kind == "f"
    assert (result.users, result.metric, result.value) == ({}, None, None)


class Named(TinyTrainer):
    result = "loss"


@SLOW
def test_the_trainer_says_which_metric_is_the_result(data, tmp_path):
    result = play(data, tmp_path / "run", trainer=Named())
    assert (result.metric, result.value) == ("loss", result.metrics["loss"][-1])
    assert {"loss_user_mean", "loss_user_p90", "top1"} <= set(result.metrics)
    assert "top1_user_mean" not in result.metrics


class Unnamed(TinyTrainer):
    result = None


@SLOW
def test_without_a_name_it_is_the_first(data, tmp_path):
    result = play(data, tmp_path / "run", trainer=Unnamed())
    assert result.metric == "loss"
    assert not [name for name in result.metrics if "_user_" in name]


# -- many in one process -------------------------------------------------------------------


def sweep(data, folder, ranks=1):
    """Three learning rates, of which the second diverges."""
    found = {}
    for lr in (0.5, 1e38, 1.0):
        try:
            found[lr] = play(data, folder / str(lr), ranks=ranks, lr=lr, max_grad_norm=None)
        except FLError as error:
            found[lr] = error
    return found


@SLOW
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_a_sweep_in_which_one_run_diverges(data, tmp_path, ranks):
    found = sweep(data, tmp_path, ranks)
    assert isinstance(found[1e38], FLError)
    assert "its local training diverged" in str(found[1e38])
    assert "\n" not in str(found[1e38])
    alone = play(data, tmp_path / "alone", lr=1.0, max_grad_norm=None)
    assert same(found[1.0].params, alone.params)
    assert not same(found[0.5].params, alone.params)


@SLOW
def test_a_server_optimizer_begins_anew_in_every_run(data, tmp_path):
    optimizer = FedAdam(0.1)
    one, two = (play(data, tmp_path / name, more={"server_optimizer": optimizer}) for name in "ab")
    assert same(one.params, two.params)


def held():
    """Threads by name, open files, and processes of this process."""
    # gRPC holds itself open in cycles.
    gc.collect()
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Counter(thread.name for thread in threading.enumerate()), files, set(psutil.Process().children())


def grown(before):
    """What there is more of than before, once gRPC has closed what it closes in threads of its own."""
    end = time.monotonic() + 5
    while True:
        threads, files, children = held()
        more = dict(threads - before[0]), max(0, files - before[1]), children - before[2]
        if not any(more) or time.monotonic() > end:
            return [each for each in more if each]
        threading.Event().wait(0.1)


@SLOW
def test_twelve_runs_hold_no_more_than_three(data, tmp_path, scratch):
    """One of four fails, in the middle of a round."""
    third = None
    for number in range(12):
        if number % 4 == 1:
            with pytest.raises(FLError):
                play(data, tmp_path / str(number), lr=1e38, max_grad_norm=None)
        else:
            play(data, tmp_path / str(number), private=("out.bias",))
        if number == 2:
            third = held()
    assert grown(third) == []


@pytest.mark.slow
def test_a_run_leaves_the_process_as_it_was(data, tmp_path, scratch):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def state():
        handlers = [signal.getsignal(number) for number in numbers]
        return handlers, resource.getrlimit(resource.RLIMIT_NOFILE), dict(os.environ), logging.getLogger().handlers[:]

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    mine = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        play(data, tmp_path / "warm")
        before, holding = state(), held()
        play(data, tmp_path / "good")
        with pytest.raises(FLError):
            play(data, tmp_path / "bad", lr=1e38, max_grad_norm=None)
        assert state() == before
        assert grown(holding) == []
    finally:
        signal.signal(signal.SIGTERM, mine)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@SLOW
def test_a_program_without_logging_sees_the_lines_and_keeps_none_of_it(data, tmp_path, capfd):
    root = logging.getLogger()
    before, root.handlers, level = root.handlers, [], root.level
    try:
        play(data, tmp_path / "run")
        assert (root.handlers, root.level) == ([], level)
    finally:
        root.handlers = before
    assert "infer results: " in capfd.readouterr().out


@SLOW
def test_in_another_thread(data, tmp_path, page):
    found = []
    thread = threading.Thread(target=lambda: found.append(play(data, tmp_path / "run")))
    thread.start()
    thread.join(60)
    assert same(found[0].params, params(page))


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_an_exception_in_user_code_comes_with_its_traceback(data, tmp_path, ranks):
    trainer = TinyTrainer("raise", "user005")
    with pytest.raises(
        FLError, match=r"date 20200101, round 1, uid 'user005' failed:\nTraceback[^$]*a mistake in user"
    ):
        play(data, tmp_path / "run", trainer=trainer, sample_num=12, ranks=ranks)


REFUSED = {
    "no data": ({"data": "nowhere"}, BadInput, "nowhere"),
    "too few users": ({"sample_num": 13}, FLError, "--sample-num 13"),
    "idle": ({"hash_percent": 3.0}, BadInput, "--hash-percent 3.0 would do nothing"),
    "no such parameter": ({"private": ("head.*",)}, FLError, "head"),
}


@pytest.mark.parametrize(
    ("case", "ranks"),
    [
        ("no data", 1),
        ("idle", 1),
        *(pytest.param(*c, marks=SLOW) for c in (("too few users", 2), ("no such parameter", 1))),
    ],
)
def test_a_run_that_cannot_be_is_refused(data, tmp_path, case, ranks, scratch):
    settings, kind, said = REFUSED[case]
    given = {"data": data, "output": tmp_path / "run", **settings}
    with pytest.raises(kind if ranks == 1 else FLError, match=said):
        play(ranks=ranks, **given)


@SLOW
def test_a_folder_that_another_run_has_is_refused_and_free_after_a_failure(data, tmp_path):
    class Again(Callback):
        def decide(self, record):
            with pytest.raises(BadInput, match="another run has this folder"):
                play(data, tmp_path / "run")
            raise BadInput("enough")

    with pytest.raises(BadInput, match="enough"):
        play(data, tmp_path / "run", more={"callbacks": [Again()]})
    assert play(data, tmp_path / "run").value is not None


@SLOW
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_has_it_stop_with_a_checkpoint(data, tmp_path, scratch, ranks):
    """It comes to this process, which passes it on to the ranks if it has some; and the next run is not stopped."""
    settings = {"rounds": 100_000, "checkpoint_every": 100_000}

    def send():
        while not (tmp_path / "run" / "metrics.csv").exists():
            threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(RunStopped, match=r"^stopped by SIGTERM at rank \d after round \d+ of the run; --resume "):
        play(data, tmp_path / "run", ranks=ranks, **settings)
    thread.join()
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert play(data, tmp_path / "next").stopped is None


@SLOW
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_ctrl_c_comes_through_when_all_is_closed(data, tmp_path, scratch, ranks):
    before = held()
    # What has started these tests may have it ignored, as a shell does for what runs in the background.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(4.0, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        play(data, tmp_path / "run", trainer=TinyTrainer("hang", "user005"), sample_num=12, ranks=ranks)
    timer.join()
    signal.signal(signal.SIGINT, usual)
    assert grown(before) == []


def test_under_a_launcher_it_says_to_leave_that_out(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(BadInput, match=r"^run\(\) starts its ranks itself: start the program without MPICH's mpirun"):
        play(data, tmp_path / "run")


@pytest.mark.parametrize("ranks", [0, -1])
def test_so_few_ranks_are_refused(data, tmp_path, ranks):
    with pytest.raises(BadInput, match=f"ranks={ranks}: a run has at least one"):
        play(data, tmp_path / "run", ranks=ranks)


# -- several ranks ---------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from simulator import Settings, run
from tiny_task import TinyReader, TinyTrainer

class Mine(TinyTrainer):
    pass

if __name__ == "__main__":
    data, output, trouble = sys.argv[1:]
    settings = Settings(data=data, output=Path(output), rounds=2, sample_num=12, shards=1)
    print(run(settings, reader=TinyReader(), trainer=Mine(trouble, "user005"), ranks=2))
"""


@SLOW
def test_a_program_that_is_killed_takes_its_ranks_along(data, tmp_path, scratch):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = start(script, data, tmp_path / "run", "hang")
    read_until(process, "hanging")
    everything = tree(process)
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(everything, timeout=10)
        assert alive == []
    finally:
        for each in everything:
            if each.is_running():
                each.kill()
        process.stdout.close()


@SLOW
def test_classes_of_the_main_script_and_of_standard_input_reach_the_ranks(data, tmp_path, scratch):
    import subprocess
    import sys

    from running import environment

    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    assert "RunResult(" in run(script, data, tmp_path / "one", "").stdout
    done = subprocess.run(
        [sys.executable, "-", str(data), str(tmp_path / "two"), ""],
        input=PROGRAM, env=environment(), cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "RunResult(" in done.stdout
    assert same(params(tmp_path / "one"), params(tmp_path / "two"))


@SLOW
def test_a_class_that_a_rank_cannot_import_is_said_in_one_line(data, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace('if __name__ == "__main__":', "if True:"))
    done = run(script, data, tmp_path / "run", "", check=False)
    assert "program.py starts a run when it is imported" in done.stderr.splitlines()[-1]


@SLOW
def test_a_rank_that_is_killed_is_an_error(data, tmp_path, scratch):
    def kill():
        for child in psutil.Process().children(recursive=True):
            if "simulator.running.rank_main" in " ".join(child.cmdline()) and child.children():
                child.kill()
                return

    timer = threading.Timer(4.0, kill)
    timer.start()
    with pytest.raises(FLError, match=r"rank|mpirun"):
        play(data, tmp_path / "run", trainer=TinyTrainer("hang", "user005"), sample_num=12, ranks=2)
    timer.join()
    # Its shard takes its folder along, and may outlive it by a moment.
    end = time.monotonic() + 5
    while list(scratch.iterdir()) and time.monotonic() < end:
        threading.Event().wait(0.1)


# -- whatever fails, all is closed -------------------------------------------------------------


def breaks(*arguments, **options):
    raise FLError("broken here")


def stages():
    """(where, what) that is called in the stages of a run, from the first to the last."""
    from simulator.callbacks import chain
    from simulator.running import machine, modelled, rank0, rank_run, simulation

    return {
        "a scheduler's server": (rank0, "start_scheduler_server"),
        "a store": (machine, "UserStore"),
        "shards": (machine, "ShardPool"),
        "a data server": (machine, "start_data_server"),
        "others": (simulation, "join"),
        "a model": (modelled, "agree_on_model"),
        "a transport": (modelled, "_choose_transport"),
        "a reader": (modelled.Modelled, "prepare_reader"),
        "private parameters": (simulation, "save_private"),
        "a result": (rank0, "read_result"),
        "an end": (rank_run.RankRun, "result"),
        "a closing": (chain.CallbackChain, "close"),
    }


@SLOW
@pytest.mark.parametrize("stage", list(stages())[::2])
def test_a_failure_in_any_stage_is_raised_and_leaves_nothing(data, tmp_path, scratch, monkeypatch, stage):
    before = held()
    with monkeypatch.context() as patched:
        patched.setattr(*stages()[stage], breaks)
        with pytest.raises(FLError, match=r"^broken here$"):
            play(data, tmp_path / "run", private=("out.bias",))
    assert grown(before) == []
    # The folder is free again.
    RecordFolder.make(tmp_path / "run").release()
