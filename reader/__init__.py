"""Readers: the files of a day become users with examples."""

from reader.leaf_columns import Characters, Column, Floats, Images, Labels, Words
from reader.leaf_reader import LeafReader
from reader.leaf_reddit_reader import LeafRedditReader
from reader.npz_reader import NpzReader
from reader.reader_base import DataError, Examples, ReaderBase

__all__ = [
    "Characters",
    "Column",
    "DataError",
    "Examples",
    "Floats",
    "Images",
    "Labels",
    "LeafReader",
    "LeafRedditReader",
    "NpzReader",
    "ReaderBase",
    "Words",
]
