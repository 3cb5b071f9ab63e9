"""python -m reader.partition: see `command.py`."""

import sys

from reader.partition.command import main

if __name__ == "__main__":
    sys.exit(main())
