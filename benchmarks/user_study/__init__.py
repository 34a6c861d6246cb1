"""A user study: a page on which people rank methods blindly, and the table of their answers."""
