"""The paper's experiments as commands: ours beside its numbers."""
