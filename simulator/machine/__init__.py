"""What this machine gives a process: cores, memory, open files."""
