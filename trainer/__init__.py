"""Trainers, algorithms and filters: how one user trains and is tested.  Importing this does not import Paddle."""

from trainer.algorithms import Ditto, FedNova, FedProx, FedRep, FineTune, Scaffold
from trainer.filters import Clip, UserDP
from trainer.language_model_trainer import LanguageModelTrainer
from trainer.trainer_base import LocalUser, Metrics, TaskError, TrainerBase, add_metrics

__all__ = [
    "Clip",
    "Ditto",
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
