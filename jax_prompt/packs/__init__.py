"""A tuned task as one small file, and from it back to a classifier."""
