"""Panoramas and videos of procedural worlds, whose correct edit is known."""
