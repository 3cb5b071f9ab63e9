"""What every step says about input that it cannot use."""

from __future__ import annotations


class DataError(Exception):
    """Input that cannot be used; the message is one line that names the file and the offending value."""
