"""Metrics, statistics and the result files of a run."""
