"""Trainers, algorithms and filters: how one user trains and is tested.  Importing this does not import Paddle."""

from trainer.algorithms import Ditto, FedNova, FedProx, FedRep, FineTune, Scaffold
from trainer.answers import add_metrics
from trainer.filters import Clip, UserDP
from trainer.language_model_trainer import LanguageModelTrainer
from trainer.local_user import EvaluatedUser, LocalUser, Metrics
from trainer.task_error import TaskError
from trainer.trainer_base import TrainerBase

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
