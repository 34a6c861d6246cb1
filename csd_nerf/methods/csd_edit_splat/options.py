"""The options of `csd-nerf scene`; this module imports nothing heavy.

The docstrings of fields are the command's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from csd_nerf.hints import check_input

Preset = Literal["full", "tiny"]


def _unset(metavar: str, default: str) -> Any:
    """The help of an option whose default, None, is replaced by another value later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True, kw_only=True)
class SplatSettings:
    """Edit Gaussian splats that were trained elsewhere, from a .ply file."""

    splat: Path
    """The .ply file, with spherical harmonics of degree 0 to 3.
    Inria's code, gsplat, nerfstudio and SuperSplat write such files."""
    cameras: Path
    """Cameras of the photographs: a transforms.json, or the folder of a COLMAP model."""
    prompt: str
    """The instruction, such as "make it snow"."""
    output: Path
    """The edited .ply to make. The run is left beside it, in a folder of its name and _run."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the photographs. Without it, renders of the splats take their place."""
    preset: Annotated[Preset | None, _unset("{full,tiny}", "full with a GPU, else tiny")] = None
    """full: csd-edit-splat, on a GPU. tiny: csd-edit-splat-tiny, on a CPU."""
    frame: Annotated[
        Literal["colmap", "file", "nerfstudio"] | None,
        _unset("{colmap,file,nerfstudio}", "whose renders are most like the photographs"),
    ] = None
    """The splats' frame. Without photographs it is the first of these that the cameras have.
    colmap: that of the COLMAP model, as of Inria's code. file: that of transforms.json.
    nerfstudio: turned and scaled as nerfstudio does by default, as of ns-export."""
    region: Annotated[str, tyro.conf.arg(metavar="PLACE")] = ""
    """Where the instruction applies; outside, the splats stay what they are. A box,
    "x0,y0,z0,x1,y1,z1", in the coordinates of the .ply; a folder of masks of some photographs; or a
    word, such as "the car". As --pipeline.region of csd-edit-splat."""
    region_model: Annotated[str, tyro.conf.arg(metavar="NAME")] = "clipseg"
    """What finds a word: clipseg (600 MB, optional), a hub id, or a folder with a CLIPSeg model of
    transformers."""
    background: Literal["black", "white"] = "black"
    """Colour behind the splats."""
    antialiased: bool = False
    """Render as Mip-Splatting does, for splats that were trained so."""
    resume: bool = False
    """Continue an interrupted run."""
    overwrite: bool = False
    """Replace an earlier result."""
    train_options: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="-- OPTIONS...")
    ] = ()
    """Further options for ns-train, after --, such as --pipeline.edit.text-scale 9."""

    def __post_init__(self) -> None:
        """Check all that can be checked without reading files."""
        if not self.prompt.strip():
            raise ValueError(
                f'--prompt needs an instruction, got {self.prompt!r}; give --prompt "...".'
            )
        if self.output.suffix != ".ply":
            raise ValueError(f"--output must end in .ply, got {self.output}; rename it.")
        if self.resume and self.overwrite:
            raise ValueError("A run is resumed or replaced, got both; leave one option out.")

    @property
    def run_folder(self) -> Path:
        """Folder of the run, with its data, its source and its rounds."""
        return self.output.with_name(f"{self.output.stem}_run")

    def run(self) -> None:
        """Edit the splats."""
        check_input(self.splat, "--splat must be a .ply file", folder=False)
        check_input(self.cameras, "--cameras must be a transforms.json or a COLMAP model")
        if self.images is not None:
            check_input(self.images, "--images must be a folder of photographs", file=False)
        from csd_nerf.methods.csd_edit_splat.door import edit_splat

        edit_splat(self)
