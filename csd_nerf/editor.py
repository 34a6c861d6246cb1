"""The one optimisation loop of CSD-Edit; every domain goes through it."""
