"""`ns-train csd-edit`: edit a scene by a sentence. Entry points are in `config`."""
