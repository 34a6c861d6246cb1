"""Procedural worlds whose correct edit is known, as images and as nerfstudio data sets."""
