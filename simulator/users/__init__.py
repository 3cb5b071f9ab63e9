"""The users of one simulator: their examples and private parameters, by uid."""
