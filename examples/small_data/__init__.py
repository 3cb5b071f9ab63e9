"""Small sets of data to run the examples on at once: a file each, with `write(out, seed)`."""
