"""Algorithms, one file each; importing this registers their names.  None imports Paddle."""

from trainer.algorithms.ditto import Ditto
from trainer.algorithms.fednova import FedNova
from trainer.algorithms.fedprox import FedProx
from trainer.algorithms.fedrep import FedRep
from trainer.algorithms.finetune import FineTune
from trainer.algorithms.scaffold import Scaffold

__all__ = ["Ditto", "FedNova", "FedProx", "FedRep", "FineTune", "Scaffold"]
