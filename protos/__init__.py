"""All that is on the wire: messages, tensor codec, channels and servers, errors."""

import sys

# Memory files, locks and process handles of Linux are used throughout; all else of the core imports this first.
if sys.platform != "linux":
    raise SystemExit(f"this program needs Linux (it is {sys.platform} here); in a Linux container or WSL 2 it runs")
