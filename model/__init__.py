"""Models: ordinary Paddle layers.  Importing this imports Paddle, so only shards do."""

from model.classifier import Classifier
from model.language_model import LanguageModel
from model.last_step import LastStep
from model.model_base import ModelBase

__all__ = ["Classifier", "LanguageModel", "LastStep", "ModelBase"]
