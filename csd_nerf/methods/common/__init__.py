"""What all methods of ns-train share."""
