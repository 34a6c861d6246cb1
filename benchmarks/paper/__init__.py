"""The paper's experiments: ours beside its numbers."""
