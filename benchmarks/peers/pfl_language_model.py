"""The workload in pfl-research; started by language_model.py.

torchrun --standalone --nproc_per_node=2 pfl_language_model.py WORKLOAD SECONDS

Users go to the processes by size, longest first, as pfl-research does when it is told the sizes.  The LSTM's state
starts at zero in each batch: pfl-research's local step has no place to carry it, and it costs nothing.
"""

from __future__ import annotations

import sys
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from pfl_clock import Clock
from torch import Tensor
from torch_model import LanguageModel
from workload import BATCH, LEARNING_RATE, MAX_GRAD_NORM, SERVER_LEARNING_RATE, Workload


class Model(LanguageModel):
    """With the two methods pfl-research asks for."""

    def loss(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.loss_from(x.long(), y.long(), mask, None)[0]

    def metrics(self, x: Tensor, y: Tensor, mask: Tensor) -> dict[str, Any]:
        """Next to nothing: evaluation is not timed."""
        return {"sequences": Weighted(0.0, len(x))}


def main(path: Path, seconds: Path) -> None:
    """Trains all rounds; the first process reports."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    workload = Workload.load(path)
    # pfl-research samples ahead, so the plan must not end.
    plan = cycle(chain.from_iterable(workload.cohorts))
    data = FederatedDataset(
        lambda user: Dataset(raw_data=list(workload.users[user]), user_id=str(user)),
        lambda: next(plan),
        user_id_to_weight={user: workload.size(user) for user in range(len(workload.users))},
    )
    model, clock = Model(), Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(workload.cohorts),
            evaluation_frequency=1 << 30,
            train_cohort_size=len(workload.cohorts[0]),
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=None, postprocessors=[WeightByDatapoints()]),
        model=PyTorchModel(
            model=model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), SERVER_LEARNING_RATE),
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=LEARNING_RATE,
            local_batch_size=BATCH,
            local_max_grad_norm=MAX_GRAD_NORM,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
        callbacks=[clock],
    )
    clock.report(seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
