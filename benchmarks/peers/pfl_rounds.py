"""Rounds of federated averaging in pfl-research, of a model that classifies the users of an NPZ file."""

from __future__ import annotations

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


class Classifies(torch.nn.Module):
    """The two methods pfl-research asks for, of a module that gives logits."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy."""
        return torch.nn.functional.cross_entropy(self(x), y.long())

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Next to nothing: evaluation is not timed."""
        return {"examples": Weighted(0.0, len(x))}


def begin() -> None:
    """One thread, and the streams of the whole run: a model is made after it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # pfl-research samples with NumPy's global generator


def train(
    model: Classifies, x: Any, y: Any, rounds: int, cohort: int, seconds: Path, *, lr: float,
    max_grad_norm: float | None,
) -> None:  # fmt: skip
    """Trains all rounds in batches of 10; the first process reports their seconds."""
    data = FederatedDataset(
        lambda user: Dataset(raw_data=[x[user], y[user]]), get_user_sampler("random", range(len(x)))
    )
    clock = Clock()
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
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=lr, local_batch_size=10, local_max_grad_norm=max_grad_norm
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=10),
        callbacks=[clock],
    )
    clock.report(seconds)
