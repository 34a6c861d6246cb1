"""A prior that counts what its U-Net is asked, apart from the count of the package."""

from __future__ import annotations

from typing import Any

from csd_nerf import priors


class CountingPrior:
    """Another prior, with a count of the particles that its U-Net sees."""

    def __init__(self, prior: priors.Prior) -> None:
        self._prior, self.evaluations = prior, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def predict(self, branches: Any, timestep: Any, **options: Any) -> Any:
        for branch in branches:
            self.evaluations += len(branch.noisy if branch.particles is None else branch.particles)
        return self._prior.predict(branches, timestep, **options)
