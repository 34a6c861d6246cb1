"""Runs `ns-train` and renders trained scenes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras


@dataclass(frozen=True)
class SceneRun:
    """One run of `ns-train`, in a folder that is known in advance."""

    method: str
    data: Path
    runs: Path
    """nerfstudio's output folder, which holds all runs."""
    experiment: str
    name: str
    """Name of the run, which replaces nerfstudio's time stamp."""
    options: Sequence[str] = ()
    """Further command-line options of ns-train."""

    @property
    def folder(self) -> Path:
        """Folder of the run, which holds config.yml."""
        return self.runs / self.experiment / self.method / self.name

    @property
    def command(self) -> list[str]:
        """The words of the command line."""
        return [
            str(Path(sys.executable).parent / "ns-train"),
            self.method,
            *("--data", str(self.data)),
            *("--output-dir", str(self.runs)),
            *("--experiment-name", self.experiment),
            *("--timestamp", self.name),
            *self.options,
        ]

    def train(self) -> Path:
        """Print and run the command; returns the path of the run's config.yml.

        Raises:
            ChildProcessError: If ns-train fails.
        """
        words = (f"'{word}'" if " " in word else word for word in self.command)
        print(" ".join(words), flush=True)
        status = subprocess.run(self.command, check=False).returncode
        if status != 0:
            raise ChildProcessError(
                f"ns-train must end with status 0, got {status}; its output says why."
            )
        return self.folder / "config.yml"


def path_through(cameras: Cameras, frames_between: int) -> Cameras:
    """A camera path through cameras in order, with this many frames from one to the next."""
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    path = get_interpolated_camera_path(cameras.to("cpu"), frames_between, order_poses=False)
    path.height = cameras.height[:1].cpu().expand(len(path), 1).clone()
    path.width = cameras.width[:1].cpu().expand(len(path), 1).clone()
    return path.to(cameras.device)


@torch.no_grad()
def render_cameras(
    pipeline: Any, cameras: Cameras, label: str = "path"
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n h w"]]:
    """Render cameras: colours in [0, 1], and distances along the rays in the scene's units."""
    frames, distances = [], []
    with warnings.catch_warnings():
        # torch warns at every image of a way in which nerfstudio indexes tensors.
        warnings.filterwarnings("ignore", category=UserWarning, module="nerfstudio")
        for index in tqdm(range(len(cameras)), desc=f"render {label}"):
            outputs = pipeline.model.get_outputs_for_camera(cameras[index : index + 1])
            frames.append(outputs["rgb"].permute(2, 0, 1).float().clamp(0, 1).cpu())
            distances.append(outputs["depth"][..., 0].float().cpu())
    return torch.stack(frames), torch.stack(distances)
