"""Algorithms, one file each; importing this registers their names.  None imports Paddle."""

from trainer.algorithms.apfl import APFL
from trainer.algorithms.ditto import Ditto
from trainer.algorithms.fedala import FedALA
from trainer.algorithms.fedbabu import FedBABU
from trainer.algorithms.fedbn import FedBN
from trainer.algorithms.feddyn import FedDyn
from trainer.algorithms.fednova import FedNova
from trainer.algorithms.fedper import FedPer
from trainer.algorithms.fedproto import FedProto
from trainer.algorithms.fedprox import FedProx
from trainer.algorithms.fedrep import FedRep
from trainer.algorithms.fedsgd import FedSGD
from trainer.algorithms.finetune import FineTune
from trainer.algorithms.lgfedavg import LGFedAvg
from trainer.algorithms.local import LocalOnly
from trainer.algorithms.moon import Moon
from trainer.algorithms.perfedavg import PerFedAvg
from trainer.algorithms.pfedme import PFedMe
from trainer.algorithms.qfedavg import QFedAvg
from trainer.algorithms.scaffold import Scaffold

__all__ = [
    "APFL",
    "Ditto",
    "FedALA",
    "FedBABU",
    "FedBN",
    "FedDyn",
    "FedNova",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedRep",
    "FedSGD",
    "FineTune",
    "LGFedAvg",
    "LocalOnly",
    "Moon",
    "PFedMe",
    "PerFedAvg",
    "QFedAvg",
    "Scaffold",
]
