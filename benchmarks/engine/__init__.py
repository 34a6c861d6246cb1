"""Experiments as sets of trials, which are identified by what decides their result."""
