"""A prior that went through the whole training with absurdly few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import tiny_prior
from training.tiny_prior import Recipe


def small_recipe(folder: Path) -> Recipe:
    return Recipe(
        work=folder / "work",
        output=folder / "assets" / "tiny",
        shards=2,
        seeds_a_shard=2,
        vae_steps=2,
        vae_batch=2,
        steps=2,
        batch=2,
        device="cpu",
        workers=1,
    )


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe of a finished training."""
    recipe = small_recipe(tmp_path_factory.mktemp("training"))
    tiny_prior.main(recipe)
    return recipe
