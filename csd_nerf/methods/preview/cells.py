"""The cells of a sweep: each is a call of ns-train, parsed by ns-train's own parser.

So every option means in a preview what it means in the run that the cell stands for.
"""

from __future__ import annotations

import copy
import itertools
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.methods.common.checks import asked_prompt
from csd_nerf.methods.common.edit_pipeline import EditPipelineConfig
from csd_nerf.methods.common.edit_trainer import check_data, check_options, edit_options
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.preview.options import PreviewSettings

NO_CAPTURE = "DATA"
"""What stands for the data in a cell's command if the pictures have no cameras yet."""


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep."""

    prompt: str
    text_scale: float
    image_scale: float
    seed: int
    words: tuple[str, ...]
    """The words of the command line after ns-train."""
    config: TrainerConfig
    """What ns-train makes of them, checked."""

    @property
    def command(self) -> str:
        """The command that runs the cell's settings in 3D, quoted for a shell."""
        return shlex.join(["ns-train", *self.words])

    @property
    def options(self) -> EditPipelineConfig:
        """The options of the pipeline."""
        return edit_options(self.config)


def plan_cells(settings: PreviewSettings, capture: Path | None) -> list[Cell]:
    """Parse and check the calls of all combinations: seed by seed, then by prompt and scales.

    Args:
        settings: The options of the sweep.
        capture: The data with cameras; None if there are pictures alone.

    Raises:
        MethodError: If ns-train would refuse the options, or they set what the sweep varies.
    """
    combinations = itertools.product(
        range(settings.seeds),
        settings.prompt,
        settings.text_scale or (None,),
        settings.image_scale or (None,),
    )
    cells = []
    for seed, prompt, text_scale, image_scale in combinations:
        varied = _Varied(prompt, text_scale, image_scale, seed)
        words = [*_words(settings, capture, varied)]
        # What ns-train prints of the options would be the same for each.
        config = _checked(words, has_capture=capture is not None, quiet=bool(cells))
        _check_varied(config, varied)
        edit = edit_options(config).edit
        cells.append(Cell(prompt, edit.text_scale, edit.image_scale, seed, tuple(words), config))
    return cells


@dataclass(frozen=True)
class _Varied:
    """What differs from cell to cell; None takes the method's."""

    prompt: str
    text_scale: float | None
    image_scale: float | None
    seed: int


def _words(settings: PreviewSettings, capture: Path | None, varied: _Varied) -> Iterator[str]:
    usual = "csd-edit" if torch.cuda.is_available() else "csd-edit-tiny"
    yield settings.method or usual
    options = {
        "--data": NO_CAPTURE if capture is None else str(capture),
        "--pipeline.prompt": varied.prompt,
        "--pipeline.edit.text-scale": _number(varied.text_scale),
        "--pipeline.edit.image-scale": _number(varied.image_scale),
        "--pipeline.seed": str(varied.seed),
        "--pipeline.prior": settings.prior,
        "--pipeline.edit.iterations": _number(settings.iterations),
        "--pipeline.edit-size": _number(settings.edit_size),
        "--pipeline.negative-prompt": settings.negative_prompt or None,
        "--pipeline.source-prompt": settings.source_prompt or None,
        "--pipeline.edit.residual": settings.residual,
        "--pipeline.edit.mixing": settings.mixing,
    }
    for name, value in options.items():
        if value is not None:
            yield from (name, value)
    # Last, since a dataparser with its own options has to be at the end.
    yield from settings.train_options


def _number(value: int | float | None) -> str | None:
    if value is None:
        return None
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _checked(words: list[str], *, has_capture: bool, quiet: bool) -> TrainerConfig:
    """What ns-train makes of the words, with the checks and numbers of the method's trainer."""
    # Late: it imports the configs of all methods.
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    parsed: Any = tyro.cli(AnnotatedBaseConfigUnion, args=words, prog="ns-train")
    config = copy.deepcopy(parsed)
    if config.load_dir is not None or config.load_checkpoint is not None:
        raise MethodError(
            "A preview edits photographs, not a run, got --load-dir after --; leave it out, and "
            "add it to the command that a cell names."
        )
    config.pipeline.datamanager.data = config.data
    config.pipeline.prompt = asked_prompt(config)
    was_quiet, CONSOLE.quiet = CONSOLE.quiet, quiet or CONSOLE.quiet
    try:
        check_options(config, 1)
    finally:
        CONSOLE.quiet = was_quiet
    if has_capture:
        check_data(config.pipeline)
    if config.pipeline.control == "depth":
        raise MethodError(
            "--pipeline.control depth needs a scene, which renders it, got photographs alone; "
            "preview with canny, or without."
        )
    return config


def _check_varied(config: TrainerConfig, varied: _Varied) -> None:
    """Refuse settings of a run that are not those by which its cell would be labelled."""
    pipeline = edit_options(config)
    found = {
        "prompt": (pipeline.prompt, varied.prompt),
        "seed": (pipeline.seed, varied.seed),
        "text-scale": (pipeline.edit.text_scale, varied.text_scale),
        "image-scale": (pipeline.edit.image_scale, varied.image_scale),
    }
    for name, (have, asked) in found.items():
        same = math.isclose(have, asked) if isinstance(asked, float) else have == asked
        if asked is not None and not same:
            raise MethodError(
                f"--{name} of a cell must be what ns-train takes, got {asked}, for which it takes "
                f"{have}; leave it out of the options after --. The number of a method's preset "
                "gives way to those of another prior: take one near it, such as 7.6 for 7.5."
            )
