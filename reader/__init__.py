"""Readers: the files of a day become users with examples."""

from reader.leaf_reddit_reader import LeafRedditReader
from reader.npz_reader import NpzReader
from reader.reader_base import DataError, Examples, ReaderBase

__all__ = ["DataError", "Examples", "LeafRedditReader", "NpzReader", "ReaderBase"]
