"""A Flower client of the workload; a module of its own, so that Ray's workers load model and data once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.client import Client, NumPyClient
from flwr.common import Context, Scalar
from torch_model import LanguageModel, State
from workload import LEARNING_RATE, MAX_GRAD_NORM, Workload, batches

Arrays = list[npt.NDArray[Any]]


@cache
def _resident(path: str) -> tuple[Workload, LanguageModel]:
    torch.set_num_threads(1)
    return Workload.load(Path(path)), LanguageModel()


class WorkloadClient(NumPyClient):
    """Trains one user of each round's cohort.

    Args:
        place: of the user within the cohort.
    """

    def __init__(self, place: int) -> None:
        self._place = place

    def fit(self, parameters: Arrays, config: dict[str, Scalar]) -> tuple[Arrays, int, dict[str, Scalar]]:
        """One local epoch."""
        workload, model = _resident(str(config["workload"]))
        user = workload.cohorts[int(config["round"]) - 1][self._place]
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), parameters, strict=True):
                parameter.copy_(torch.from_numpy(np.array(value)))
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
        state: State | None = None
        for arrays in batches(workload.users[user]):
            x, y, mask = (torch.from_numpy(rows) for rows in arrays)
            if state is not None:  # the last batch may be smaller
                state = (state[0][:, : len(x)].contiguous(), state[1][:, : len(x)].contiguous())
            optimizer.zero_grad()
            loss, after = model.loss_from(x, y, mask, state)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            state = (after[0].detach(), after[1].detach())
        return [parameter.detach().numpy() for parameter in model.parameters()], workload.size(user), {}


def make_client(context: Context) -> Client:
    """The client of a supernode."""
    return WorkloadClient(int(context.node_config["partition-id"])).to_client()
