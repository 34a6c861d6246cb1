"""The sizes of what is measured: for a GPU, and tiny ones to try the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["eager", "on", "graphs"]
"""A denoiser as it is, or compiled as `--pipeline.prior-compile` says."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of everything; edges are in pixels."""

    sd15_edge: int
    """Edge of the images that the U-Net edits."""
    sd15_calls: tuple[tuple[Mode, int], ...]
    """How the denoiser is called, and evaluations in a call."""
    klein_edge: int
    klein_calls: tuple[tuple[Mode, int], ...]
    compile: bool
    """Whether edits are by compiled priors, as in the full presets."""
    particles: tuple[int, ...]
    """Numbers of images that are edited together."""
    iterations: int
    """Iterations of a timed edit."""
    max_batch: int = 40
    """Most evaluations in a call of an edit, as in the full presets."""
    repetitions: int
    """Timed repetitions after a warm-up, of which the median is taken."""
    images: int
    """Images that the autoencoder encodes and decodes."""
    klein_views: int
    """Images of the edit whose memory is measured; Stable Diffusion's has the most particles."""
    gaussians: int
    splat_edge: int
    scene_edge: int
    scene_views: int
    source_steps: int
    edit_steps: int
    """Training steps of a scene before and after its edit; the edit has two rounds."""
    edit_views: int
    edit_iterations: int
    test_files: int | None = None
    """Files with tests for a GPU that are run; None means all."""


FULL = Sizes(
    sd15_edge=512,
    # CUDA graphs are for small calls, in which the CPU is slower than the GPU.
    sd15_calls=(
        *(("eager", 4), ("eager", 16), ("eager", 40)),
        *(("on", 16), ("on", 40), ("graphs", 4)),
    ),
    klein_edge=1024,
    klein_calls=(("eager", 1), ("eager", 4), ("on", 4)),
    compile=True,
    particles=(4, 16, 24),
    iterations=5,
    repetitions=5,
    images=4,
    klein_views=4,
    gaussians=200_000,
    splat_edge=512,
    scene_edge=256,
    scene_views=24,
    source_steps=500,
    edit_steps=200,
    edit_views=16,
    edit_iterations=20,
)
TINY = Sizes(
    sd15_edge=32,
    sd15_calls=(("eager", 1), ("eager", 16)),
    klein_edge=16,
    klein_calls=(("eager", 1),),
    compile=False,
    particles=(2,),
    iterations=1,
    max_batch=4,
    repetitions=1,
    images=1,
    klein_views=1,
    gaussians=50,
    splat_edge=16,
    scene_edge=16,
    scene_views=8,
    source_steps=2,
    edit_steps=4,
    edit_views=2,
    edit_iterations=1,
    test_files=1,
)
SIZES = {"full": FULL, "tiny": TINY}
