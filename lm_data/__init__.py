"""What makes data folders for the language model: `prepare.py`."""
