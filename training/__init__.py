"""Trains the bundled priors; not part of the installed package."""
