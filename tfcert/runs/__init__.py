"""What long runs share: hashes that tell whether a run is the same, and a line of progress."""
