"""Experiments as sets of trials: known by what decides their result, and never run twice."""
