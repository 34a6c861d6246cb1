"""Local edits of scenes: how well masks are found, and what changes outside of them."""
