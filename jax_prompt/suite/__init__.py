"""The benchmark over tasks and seeds, shared by processes through one folder."""
