"""`ns-train csd-edit`: edits a scene by an instruction. The entry points are in `config`."""
