"""Folders of randomly initialised pipelines, and a hub that can't be reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from random_pipelines import (
    TEXT_MODELS,
    make_latent_pipeline,
    make_pipeline,
    make_pixel_pipeline,
    make_xl_pipeline,
)

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """A folder for each solver and prediction type; the weights are the same in all."""
    folders: dict[tuple[str, str], Path] = {}

    def make(solver: str = "ddim", prediction_type: str = "epsilon") -> Path:
        key = (solver, prediction_type)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("-".join(key))
            make_pipeline(*key).save_pretrained(folders[key])
        return folders[key]

    return make


@pytest.fixture(scope="session")
def folder(make_folder: MakeFolder) -> Path:
    return make_folder()


@pytest.fixture(scope="session")
def make_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """A folder whose empty text is zeros, or is not."""
    folders: dict[bool, Path] = {}

    def make(*, zeros: bool = True) -> Path:
        if zeros not in folders:
            folders[zeros] = tmp_path_factory.mktemp(f"xl-{zeros}")
            make_xl_pipeline(zeros=zeros).save_pretrained(folders[zeros])
        return folders[zeros]

    return make


@pytest.fixture(scope="session")
def make_text_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """A text-to-image folder for each model, scheduler and prediction type."""
    folders: dict[tuple[str, str, str], Path] = {}
    makers = dict(zip(TEXT_MODELS, (make_pixel_pipeline, make_latent_pipeline), strict=True))

    def make(model: str, scheduler: str | None = None, prediction_type: str = "epsilon") -> Path:
        scheduler = scheduler or {"pixels": "clipped", "latents": "ddim"}[model]
        key = (model, scheduler, prediction_type)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("-".join(key))
            makers[model](scheduler, prediction_type).save_pretrained(folders[key])
        return folders[key]

    return make


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def no_hub(monkeypatch) -> list[dict]:
    """A hub that can't be reached, and the list of attempts."""
    attempts: list[dict] = []

    def model_info(_, repo, **options):
        attempts.append(options)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return attempts
