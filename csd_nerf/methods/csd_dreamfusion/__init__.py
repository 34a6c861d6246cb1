"""`ns-train csd-dreamfusion`: makes an object from a text. The entry points are in `config`."""
