"""What a GPU makes of it: one command that checks and measures all that a CPU can't."""
