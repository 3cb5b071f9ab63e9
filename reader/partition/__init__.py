"""Plain sets become users: what is read, who gets what, and the day folders that are written.

Only the command and tests import this: readers, which travel to worker processes, have nothing of it.
"""

from reader.partition.feature_shift import FeatureShift
from reader.partition.label_amounts import Distribution
from reader.partition.label_skew import Dirichlet, Pathological, Shard
from reader.partition.natural_id import NaturalId
from reader.partition.partitioner import PARTITIONERS, Partitioner, register_partitioner
from reader.partition.plain_set import PlainSet, Source
from reader.partition.quantity_skew import Iid, LogNormal, PowerLaw, QuantityDirichlet
from reader.partition.sources import read_source

__all__ = [
    "PARTITIONERS",
    "Dirichlet",
    "Distribution",
    "FeatureShift",
    "Iid",
    "LogNormal",
    "NaturalId",
    "Partitioner",
    "Pathological",
    "PlainSet",
    "PowerLaw",
    "QuantityDirichlet",
    "Shard",
    "Source",
    "read_source",
    "register_partitioner",
]
