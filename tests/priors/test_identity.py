from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from csd_nerf.priors.identity import weights_identity

LARGE = 5 * 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text('{"in_channels": 4}')
    weights = np.random.default_rng(0).integers(0, 256, LARGE, dtype=np.uint8)
    weights.tofile(tmp_path / "unet" / "weights.safetensors")
    return tmp_path


def test_times_and_texts_about_a_model_do_not_matter(folder):
    before = weights_identity(folder)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    (folder / "README.md").write_text("a card")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").touch()
    assert weights_identity(folder) == before


def other_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text('{"in_channels": 8}')


def other_weights(folder: Path) -> None:
    """As after a training step: every number differs a little."""
    path = folder / "unet" / "weights.safetensors"
    (np.fromfile(path, np.uint8) + 1).tofile(path)


def other_end(folder: Path) -> None:
    path = folder / "unet" / "weights.safetensors"
    with path.open("rb+") as file:
        file.seek(LARGE - 1)
        file.write(b"\0" if path.read_bytes()[-1] else b"\1")


def shorter(folder: Path) -> None:
    os.truncate(folder / "unet" / "weights.safetensors", LARGE - 1)


def renamed(folder: Path) -> None:
    (folder / "unet" / "config.json").rename(folder / "unet" / "other.json")


@pytest.mark.parametrize("change", [other_config, other_weights, other_end, shorter, renamed])
def test_another_model_has_another_identity(folder, change):
    before = weights_identity(folder)
    change(folder)
    assert weights_identity(folder) != before
