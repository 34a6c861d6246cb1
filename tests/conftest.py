"""Settings that have to be made before torch is imported, and what many packages' tests share."""

import gc
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

# Threads that spin while they wait for each other are far slower than one on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_getmodule = inspect.getmodule


def _getmodule_of_files(thing: Any, filename: str | None = None) -> Any:
    """The module of a thing; None at once for a frame whose code is in no file.

    For such a frame `inspect.getmodule` looks through all modules to find none. nerfstudio and
    wandb ask for whole stacks when they are imported, and pytest's are deep.
    """
    name = filename or (thing.f_code.co_filename if inspect.isframe(thing) else "")
    return None if name.startswith("<") else _getmodule(thing, filename)


inspect.getmodule = _getmodule_of_files


def pytest_configure() -> None:
    """The import hook decorates all functions with this."""
    # Late: it imports torch.
    from typechecks import checked_once

    jaxtyping.jaxtyped = checked_once


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: the garbage collector need not look at it, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Libraries complain of what is left of theirs at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def editing_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a randomly initialised editing model of each family."""
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        # Late: it imports diffusers.
        from random_pipelines import EDITING

        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            EDITING[family]().save_pretrained(folders[family])
        return folders[family]

    return make


@pytest.fixture(scope="session")
def control_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with a randomly initialised Stable Diffusion, and a ControlNet for it."""
    from random_pipelines import make_control_net, make_latent_pipeline

    base, net = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("control")
    pipeline = make_latent_pipeline("ddim", "epsilon")
    pipeline.save_pretrained(base)
    make_control_net(pipeline.unet).save_pretrained(net)
    return base, net
