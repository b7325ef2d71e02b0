"""Tools of long runs: hashes that identify a run, and a line of progress."""
