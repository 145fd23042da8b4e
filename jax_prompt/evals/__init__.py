"""Evaluation and diagnosis of a trained classifier."""
