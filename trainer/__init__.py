"""Trainers, algorithms and filters: how one user trains and is tested.  Importing this does not import Paddle."""

from trainer.algorithms import Ditto, FedNova, FedProx, FedRep, FineTune, Scaffold
from trainer.filters import Clip, UserDP
from trainer.language_model_trainer import LanguageModelTrainer
from trainer.task_error import TaskError
from trainer.trainer_base import EvaluatedUser, LocalUser, Metrics, TrainerBase, add_metrics

__all__ = [
    "Clip",
    "Ditto",
    "EvaluatedUser",
    "FedNova",
    "FedProx",
    "FedRep",
    "FineTune",
    "LanguageModelTrainer",
    "LocalUser",
    "Metrics",
    "Scaffold",
    "TaskError",
    "TrainerBase",
    "UserDP",
    "add_metrics",
]
