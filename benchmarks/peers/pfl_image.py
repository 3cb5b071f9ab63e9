"""Rounds of a convolutional net in pfl-research; started by image_rounds.py.

torchrun --standalone --nproc_per_node=2 pfl_image.py USERS ROUNDS COHORT SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from pfl_clock import Clock
from torch import Tensor
from torch_image import image_net


class Net(torch.nn.Module):
    """The net, with the two methods pfl-research asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = image_net()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy."""
        return torch.nn.functional.cross_entropy(self.net(x), y.long())

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Next to nothing: evaluation is not timed."""
        return {"examples": Weighted(0.0, len(x))}


def main(users: Path, rounds: int, cohort: int, seconds: Path) -> None:
    """Trains all rounds; the first process reports."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    with np.load(users) as file:
        x, y = file["x"], file["y"]
    data = FederatedDataset(
        lambda user: Dataset(raw_data=[x[user], y[user]]), get_user_sampler("random", range(len(x)))
    )
    model, clock = Net(), Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=1 << 30, train_cohort_size=cohort, val_cohort_size=0
        ),
        backend=SimulatedBackend(training_data=data, val_data=None, postprocessors=[WeightByDatapoints()]),
        model=PyTorchModel(
            model=model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), 1.0),
        ),
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.05, local_batch_size=10),
        model_eval_params=NNEvalHyperParams(local_batch_size=10),
        callbacks=[clock],
    )
    clock.report(seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
