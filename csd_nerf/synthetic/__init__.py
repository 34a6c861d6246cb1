"""Procedural scenes with known true edits, as images and as nerfstudio data sets."""
