"""Panoramas and videos of procedural scenes with known true edits."""
