"""Trainers: one user's local training and evaluation.  Importing this does not import Paddle."""

from trainer.language_model_trainer import LanguageModelTrainer
from trainer.trainer_base import LocalUser, Metrics, TaskError, TrainerBase, add_metrics

__all__ = ["LanguageModelTrainer", "LocalUser", "Metrics", "TaskError", "TrainerBase", "add_metrics"]
