"""Rounds of a convolutional net in PFLlib, by its own server and clients; started by image_rounds.py.

python pfllib_image.py USERS ROUNDS COHORT SECONDS PFLLIB

PFLLIB is a folder with its sources; what it needs of them is copied, since it reads and writes beside them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import workload
from torch_image import image_net


def write_data(folder: Path, users: Path) -> int:
    """Writes the users as PFLlib reads them; returns how many."""
    with np.load(users) as file:
        x, y = file["x"], file["y"]
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for user in range(len(x)):
            np.savez_compressed(folder / split / f"{user}.npz", data={"x": x[user], "y": y[user]})
    return len(x)


def options(rounds: int, cohort: int, clients: int) -> Namespace:
    """What its command line would give."""
    return Namespace(
        model=image_net(classes=10), device="cpu", dataset="made_up", num_classes=10, global_rounds=rounds - 1,
        local_epochs=1,
        batch_size=10, local_learning_rate=0.05, learning_rate_decay=False, learning_rate_decay_gamma=0.99,
        num_clients=clients, join_ratio=cohort / clients, random_join_ratio=False, few_shot=0, algorithm="FedAvg",
        time_select=False, goal="test", time_threthold=10000, save_folder_name="items", top_cnt=100, auto_break=False,
        eval_gap=1 << 30, client_drop_rate=0.0, train_slow_rate=0.0, send_slow_rate=0.0, dlg_eval=False, dlg_gap=100,
        batch_num_per_client=2, num_new_clients=0, fine_tuning_epoch_new=0,
    )  # fmt: skip


def main(users: Path, rounds: int, cohort: int, seconds: Path, sources: Path) -> None:
    """Trains all rounds.  Its clock counts a round without its evaluation, which comes before the first alone."""
    torch.manual_seed(0)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        shutil.copytree(sources / "system", home / "system")
        clients = write_data(home / "dataset" / "made_up", users)
        os.chdir(home / "system")
        sys.path.insert(0, str(home / "system"))
        from flcore.servers.serveravg import FedAvg

        server = FedAvg(options(rounds, cohort, clients), 0)
        server.train()
        workload.report(seconds, server.Budget[1:])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
