"""The language model, ours against pfl-research, Flower and a bare Paddle loop, on the same users in the same rounds.

    python benchmarks/language_model.py lm_data --rounds 15 --repeat 2 --flower

Systems take turns, each with `--shards` worker processes of one thread.  Peers run as they are installed; the bare
loop has the environment that our shards get.  Peers' environments are made on first use (`--venvs`).  Training
data of the first day only.  Wants a machine at rest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import PEERS, ROOT, first_day, machine, show, show_parts, simulate, take_turns
from peer_environments import add_option, peer_environment, peer_programs, peer_versions, run_peer
from peers.workload import COHORT, Workload

from reader import LeafRedditReader
from simulator.shards.environment import shard_environment
from simulator.users.examples import join_examples

OURS, PFL, FLOWER, BARE = "this project", "pfl-research", "Flower", "bare Paddle loop"


def read_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("data", nargs="?", type=Path, default=ROOT / "lm_data", help="data folder (default: lm_data)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--shards", type=int, default=2, help="worker processes of each system")
    parser.add_argument("--flower", action="store_true", help="measure Flower too")
    add_option(parser)
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.repeat < 1:
        parser.error("at least two rounds (the first is not counted) and one repetition are needed")
    return arguments


def prepare(data: Path, folder: Path, rounds: int) -> Workload:
    """Chooses the cohorts and writes them for us and for the peers.

    Args:
        data: the data folder.
        folder: temporary; gets data/ (the first day), plan.json and workload.npz.
        rounds: cohorts to choose, uniformly and without replacement.
    """
    day = first_day(data)
    one_day = folder / "data"
    one_day.mkdir()
    (one_day / day).symlink_to((data / day).resolve())
    if (data / "vocab.json").exists():
        (one_day / "vocab.json").symlink_to((data / "vocab.json").resolve())
    reader = LeafRedditReader()
    files = reader.files(one_day / day, "train")
    reader.setup(reader.prepare(one_day, files))
    parts: dict[str, list[dict[str, Any]]] = {}
    for path in files:
        for uid, examples in reader.read(path):
            parts.setdefault(uid, []).append(examples)
    uids, rng = sorted(parts), np.random.default_rng(0)
    if len(uids) < COHORT:
        raise SystemExit(f"{data / day}: {len(uids)} users; a round needs {COHORT}")
    cohorts = [rng.choice(len(uids), COHORT, replace=False).tolist() for _ in range(rounds)]
    joined = [join_examples(uid, parts[uid]) for uid in uids]
    workload = Workload([(u["x"], u["y"], u["mask"]) for u in joined], cohorts)
    workload.save(folder / "workload.npz")
    (folder / "plan.json").write_text(json.dumps([[uids[i] for i in cohort] for cohort in cohorts]))
    return workload


def systems(folder: Path, asked: argparse.Namespace, times: list[dict[str, float]]) -> dict[str, Callable[[], float]]:
    """What to call for the mean seconds of a round after the first.

    Args:
        folder: as `prepare` left it.
        asked: the command line.
        times: gets the times of our own rounds.
    """

    def ours() -> float:
        plan = ("--sampler", "fixed", "--plan", folder / "plan.json")
        limits = ("--rounds", asked.rounds, "--shards", asked.shards)
        rows = simulate(ROOT / "application.py", folder / "data", *limits, *plan, output=folder / "record")[1:]
        times.extend(rows)
        return statistics.mean(row["seconds"] for row in rows)

    def peer(start: list[Any], script: str, environment: dict[str, str], *more: object) -> float:
        seconds = folder / "seconds.json"
        command = [*start, PEERS / script, folder / "workload.npz", seconds, *more]
        return statistics.mean(run_peer(command, seconds, environment))

    pfl = peer_programs("pfl", asked.venvs)
    torchrun = [pfl / "torchrun", "--standalone", f"--nproc_per_node={asked.shards}"]
    tuned = shard_environment(peer_environment(), tune=True)
    measures = {
        OURS: ours,
        BARE: lambda: peer([sys.executable], "bare_paddle.py", tuned, asked.shards),
        PFL: lambda: peer(torchrun, "pfl_language_model.py", peer_environment()),
    }
    if asked.flower:
        python = [peer_programs("flwr", asked.venvs) / "python"]
        measures[FLOWER] = lambda: peer(python, "flower_language_model.py", peer_environment(), asked.shards)
    return measures


def main() -> None:
    """Measures and prints."""
    asked = read_arguments()
    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        workload = prepare(asked.data, Path(name), asked.rounds)
        measured = take_turns(systems(Path(name), asked, times), asked.repeat, "s a round")
    rows = []
    for system, seconds in measured.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(measured[OURS], seconds, strict=True))
        rows.append([system, f"{statistics.median(seconds):.3f}", f"{ratio:.3f}"])
    sequences = statistics.mean(sum(map(workload.size, cohort)) for cohort in workload.cohorts)
    work = f"{asked.rounds} rounds of {COHORT} users, {sequences:.0f} sequences a round; median of {asked.repeat} runs"
    peers = [peer_versions("pfl", asked.venvs), *([peer_versions("flwr", asked.venvs)] if asked.flower else [])]
    title = f"Language model, {asked.shards} workers of one thread"
    show(title, ["system", "s a round", "ours / system"], rows, work, machine(), *peers)
    show_parts(times)


if __name__ == "__main__":
    main()
