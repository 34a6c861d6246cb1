"""Experiments: `python -m benchmarks`."""
