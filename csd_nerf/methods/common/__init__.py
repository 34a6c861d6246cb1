"""Code that all methods of ns-train share."""
