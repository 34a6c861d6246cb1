"""What `ns-train` can run."""
