"""The options of `csd-nerf preview`; this module imports nothing heavy.

The docstrings of fields are the command's help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from csd_nerf.hints import check_input
from csd_nerf.numbers import non_finite_fields

SceneMethod = Literal[
    "csd-edit",
    "csd-edit-small",
    "csd-edit-tiny",
    "csd-edit-splat",
    "csd-edit-splat-big",
    "csd-edit-splat-tiny",
]
"""The methods of ns-train that edit a scene."""


def _unset(metavar: str, default: str = "the method's") -> Any:
    """The help of an option whose default is replaced by another value later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True, kw_only=True)
class PreviewSettings:
    """Try prompts, scales and seeds on a few photographs, as a round of a scene would edit them."""

    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA...")]
    """What ns-train takes as --data, such as a folder with transforms.json; or pictures without
    cameras: a folder of them, or files."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")]
    """An instruction; give the option once for each."""
    output: Path = Path("outputs/preview")
    """Folder for sheet.png, preview.html, preview.json and the pictures."""
    method: Annotated[
        SceneMethod | None, _unset("METHOD", "csd-edit with a GPU, else csd-edit-tiny")
    ] = None
    """Method of ns-train whose round is previewed, with its prior and its numbers:
    csd-edit, csd-edit-small, csd-edit-splat, csd-edit-splat-big on a GPU;
    csd-edit-tiny, csd-edit-splat-tiny on a CPU."""
    text_scale: Annotated[tuple[float, ...], _unset("FLOAT...")] = ()
    """How strongly the instruction is followed; several are compared."""
    image_scale: Annotated[tuple[float, ...], _unset("FLOAT...")] = ()
    """How closely the photographs are kept; several are compared."""
    seeds: int = 1
    """Number of seeds, counted from 0."""
    views: int = 3
    """Number of photographs, evenly spaced over the training views.
    They are edited together, as the views of a round are."""
    view: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Name of a photograph, such as frame_00012.jpg, in place of --views; once for each."""
    prior: Annotated[str | None, _unset("NAME|FOLDER")] = None
    """Diffusion model, as --pipeline.prior."""
    iterations: Annotated[int | None, _unset("INT")] = None
    """Iterations of a round, as --pipeline.edit.iterations."""
    edit_size: Annotated[int | None, _unset("INT", "the prior's")] = None
    """Edge in pixels of a square whose area edited views have, as --pipeline.edit-size."""
    negative_prompt: str = ""
    """What the result should not show."""
    source_prompt: str = ""
    """Description of the photographs, for --residual dds; --prompt then describes the result."""
    residual: Annotated[Literal["csd", "sds", "dds"] | None, _unset("{csd,sds,dds}")] = None
    """What is subtracted from the guided estimate, as --pipeline.edit.residual."""
    mixing: Annotated[Literal["stein", "patch", "none"] | None, _unset("{stein,patch,none}")] = None
    """How the photographs share their scores, as --pipeline.edit.mixing."""
    resume: bool = False
    """Keep the cells of an earlier call, and make those that are missing.
    More prompts, scales and seeds than before may be asked for."""
    overwrite: bool = False
    """Replace an earlier preview."""
    train_options: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="-- OPTIONS...")
    ] = ()
    """Further options of ns-train, after --, such as --pipeline.keep-detail True.
    --pipeline.start has no effect: a preview always starts from the photographs."""

    def __post_init__(self) -> None:
        """Check all that can be checked without reading files."""
        for name, value in non_finite_fields(self):
            raise ValueError(f"--{_option(name)} must be finite, got {value}.")
        if not self.data:
            raise ValueError("--data needs a capture or pictures, got none; name them.")
        for prompt in self.prompt or ("",):
            if not prompt.strip():
                raise ValueError(
                    f'--prompt needs an instruction, got {prompt!r}; give --prompt "...".'
                )
        for name in ("prompt", "text_scale", "image_scale", "view"):
            _check_distinct(name, getattr(self, name))
        for name in ("seeds", "views", "iterations", "edit_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{_option(name)} must be at least 1, got {value}.")
        if self.resume and self.overwrite:
            raise ValueError("A preview is resumed or replaced, got both; leave one option out.")

    def run(self) -> int:
        """Make the preview; returns the exit code."""
        for path in self.data:
            check_input(path, "--data must be a capture, a folder of pictures or a picture")
        from csd_nerf.methods.preview.sweep import run_preview

        return run_preview(self)


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    twice = next((value for n, value in enumerate(values) if value in values[:n]), None)
    if twice is not None:
        raise ValueError(f"--{_option(name)} needs each value once, got {twice} twice.")


def _option(name: str) -> str:
    return name.replace("_", "-")
