"""Pictures and films: read and written here, for everyone."""
