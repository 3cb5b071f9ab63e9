"""Plain sets become users: what is read, who gets what, and the day folders that are written.

What readers are made of has nothing of this: they travel to worker processes.
"""

from reader.partition.command import Order, lay_out, main
from reader.partition.feature_shift import FeatureShift
from reader.partition.label_amounts import Distribution
from reader.partition.label_skew import Dirichlet, Pathological, Shard
from reader.partition.laid_out import laid_out
from reader.partition.natural_id import NaturalId
from reader.partition.partitioner import PARTITIONERS, Partitioner, register_partitioner, wanted
from reader.partition.plain_set import PlainSet, Source
from reader.partition.quantity_skew import Iid, LogNormal, PowerLaw, QuantityDirichlet
from reader.partition.sources import holds_plain_set, read_source

__all__ = [
    "PARTITIONERS",
    "Dirichlet",
    "Distribution",
    "FeatureShift",
    "Iid",
    "LogNormal",
    "NaturalId",
    "Order",
    "Partitioner",
    "Pathological",
    "PlainSet",
    "PowerLaw",
    "QuantityDirichlet",
    "Shard",
    "Source",
    "holds_plain_set",
    "laid_out",
    "lay_out",
    "main",
    "read_source",
    "register_partitioner",
    "wanted",
]
