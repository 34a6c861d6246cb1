"""Measures of the quality of edits, and the commands that compute them."""
