"""The benchmark with known truth: all methods on inputs whose true edit is known."""
