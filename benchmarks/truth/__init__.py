"""All methods on inputs whose true edit is known."""
