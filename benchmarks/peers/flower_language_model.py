"""The workload in Flower's simulation, which runs on Ray; started by language_model.py.

python flower_language_model.py WORKLOAD SECONDS WORKERS

One supernode for each place in the cohort: in round r, supernode i trains the i-th user of the r-th cohort.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when Flower is imported

import numpy as np
import torch
from flower_client import make_client
from flwr.client import ClientApp
from flwr.common import Context, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_model import LanguageModel
from workload import SERVER_LEARNING_RATE, Workload, report


class TimedFedAvg(FedAvg):
    """FedAvg with a server learning rate, that notes when each round ends."""

    def __init__(self, start: list[Any], **settings: Any) -> None:
        super().__init__(initial_parameters=ndarrays_to_parameters(start), **settings)
        self._global = start
        self.ends: list[float] = []

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Called by Flower when all of a round's users are in."""
        if failures:
            raise RuntimeError(f"{len(failures)} clients failed in round {server_round}: {failures[0]}")
        mean, metrics = super().aggregate_fit(server_round, results, failures)
        pairs = zip(self._global, parameters_to_ndarrays(mean), strict=True)
        self._global = [old + SERVER_LEARNING_RATE * (new - old) for old, new in pairs]
        self.ends.append(time.perf_counter())
        return ndarrays_to_parameters(self._global), metrics


def main(path: Path, seconds: Path, workers: int) -> None:
    """Trains all rounds and reports."""
    torch.manual_seed(0)
    workload = Workload.load(path)
    cohort = len(workload.cohorts[0])
    strategy = TimedFedAvg(
        [parameter.detach().numpy() for parameter in LanguageModel().parameters()],
        fraction_evaluate=0.0,
        min_fit_clients=cohort,
        min_available_clients=cohort,
        on_fit_config_fn=lambda number: {"round": number, "workload": str(path)},
    )

    def make_server(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=len(workload.cohorts)))

    run_simulation(
        ServerApp(server_fn=make_server),
        ClientApp(client_fn=make_client),
        num_supernodes=cohort,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
            "init_args": {"num_cpus": workers, "include_dashboard": False},
        },
    )
    if len(strategy.ends) != len(workload.cohorts):
        raise SystemExit(f"Flower ended after {len(strategy.ends)} of {len(workload.cohorts)} rounds")
    report(seconds, np.diff(strategy.ends).tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
