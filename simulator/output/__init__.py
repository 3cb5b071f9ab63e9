"""What a run leaves and shows: the record, the progress, private files."""
