"""Trainers: one user's local training and evaluation.  Importing this does not import Paddle."""

from trainer.language_model_trainer import LanguageModelTrainer
from trainer.trainer_base import LocalUser, Metrics, TrainerBase, add_metrics

__all__ = ["LanguageModelTrainer", "LocalUser", "Metrics", "TrainerBase", "add_metrics"]
