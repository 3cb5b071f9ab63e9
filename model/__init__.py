"""Models: ordinary Paddle layers.  Importing this imports Paddle, so only shards do."""

from model.language_model import LanguageModel
from model.model_base import ModelBase

__all__ = ["LanguageModel", "ModelBase"]
