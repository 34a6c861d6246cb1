"""`ns-train csd-dreamfusion`: make an object from a sentence. Entry points are in `config`."""
