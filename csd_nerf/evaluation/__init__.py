"""How good an edit is, where its true result is known."""
