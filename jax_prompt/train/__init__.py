"""One training: its program, optimizer, loop, checkpoints and metrics."""
