"""The options of `csd-nerf panorama` and `csd-nerf video`, and the presets behind them.

This module imports nothing heavy: the command line reads it before anything else is loaded.
An option that is None takes its value from the preset and the method; see `EditOptions.values`.
The docstrings of fields are the command's help, which keeps their line breaks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

MISTAKES = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""Errors whose message is a line for the user; any other is a fault of ours."""

Preset = Literal["full", "small", "release", "tiny"]
PanoramaMethod = Literal["csd", "csd-no-stein", "sds", "ip2p-downsize", "ip2p-windows"]
VideoMethod = Literal["csd", "csd-no-stein", "sds", "ip2p"]
Decoder = Literal["vae", "consistency", "temporal"]


@dataclass(frozen=True)
class Values:
    """What decides a run's pictures and its memory, after the preset has filled the gaps."""

    prior: str
    dtype: str
    max_batch: int | None
    batch: int
    learning_rate: float
    text_scale: float
    image_scale: float
    updates: int
    decay: float
    decays: int
    normalize: Literal["n", "rowsum"]
    t_range: tuple[float, float]
    repulsion: float
    noise: Literal["shared", "independent"]
    drawing: Literal["balanced", "uniform"]
    taper: int | None
    steps: int
    solver: Literal["ddim", "euler-ancestral"]


def _unset(metavar: str, default: str = "the preset's") -> Any:
    """How the help shows an option whose None stands for a value found later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_FULL = {
    "prior": "instruct-pix2pix",
    "dtype": "float32",
    "max_batch": 40,
    "batch": 4,
    "decay": 0.9,
    "decays": 10,
    "normalize": "n",
    "t_range": (0.02, 0.5),
    "repulsion": 1.0,
    "noise": "shared",
    "drawing": "balanced",
    "taper": None,
    "text_scale": 7.5,
    "steps": 100,
    "solver": "euler-ancestral",
}
_SMALL = {**_FULL, "dtype": "float16", "max_batch": 10}
_RELEASE = {**_FULL, "noise": "independent", "drawing": "uniform", "taper": 0}
# Best of a handful tried on validation inputs with the bundled prior.
_TINY = {
    **_FULL,
    "prior": "tiny",
    "max_batch": None,
    "decays": 6,
    "normalize": "rowsum",
    "t_range": (0.02, 0.8),
    # With one noise for all nothing is left that particles must be kept apart by.
    "repulsion": 0.0,
    "text_scale": 1.25,
    "image_scale": 1.0,
    "steps": 15,
    "solver": "ddim",
}
_DISTILLED = ("csd", "csd-no-stein")
"""Methods that take `--residual`."""
_PRESETS: dict[str, dict[str, Any]] = {
    "full": _FULL,
    "small": _SMALL,
    "release": _RELEASE,
    "tiny": _TINY,
}


@dataclass(frozen=True)
class EditOptions:
    """What panoramas and videos have in common."""

    prompt: str = ""
    """The instruction, such as "turn it into a watercolour"."""
    negative_prompt: str = ""
    """What to keep away from; takes the place of the empty text."""
    source_prompt: Annotated[str | None, _unset("TEXT", "not given")] = None
    """What the input shows, such as "a photo of a man"; --residual dds needs it."""
    residual: Literal["csd", "dds"] = "csd"
    """What drives the methods csd and csd-no-stein. csd: an editing model and an instruction.
    dds: Delta Denoising Score with a text-to-image model such as stable-diffusion, where --prompt
    describes the result and --source-prompt the input."""
    preset: Preset = "full"
    """Values of all options whose default is the preset's.
    full: InstructPix2Pix on a GPU of 24 GB. small: the same in half precision, for 12 GB.
    release: full as the authors' release draws: windows and frames by chance, a noise for each.
    tiny: the bundled prior, on a CPU."""
    prior: Annotated[str | None, _unset("NAME|FOLDER")] = None
    """instruct-pix2pix, tiny, another model's hub id, or a local folder."""
    prior_variant: Annotated[str | None, _unset("NAME", "the plain files")] = None
    """Which weight files: fp16 stands for *.fp16.safetensors."""
    device: Annotated[str | None, _unset("NAME", "a GPU if there is one; cpu for tiny")] = None
    """Where the prior runs, such as cuda:0 or cpu."""
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None, _unset("{float32,float16,bfloat16}")
    ] = None
    """Precision of the prior."""
    max_batch: Annotated[int | None, _unset("INT")] = None
    """Most model evaluations a call: lower saves memory, same result.
    Halved by itself where the memory runs out."""
    seed: int = 0
    """Equal seeds give equal pixels on the CPU."""
    size: Annotated[int | None, _unset("INT", "the input's")] = None
    """Longer edge in pixels at which the edit is computed; the result has the input's size."""
    batch: Annotated[int | None, _unset("INT")] = None
    """Windows or frames an iteration."""
    iterations: Annotated[int | None, _unset("INT", "as many as --updates needs")] = None
    """Number of iterations."""
    updates: Annotated[int | None, _unset("INT")] = None
    """How often each cell or frame is updated on average."""
    learning_rate: Annotated[float | None, _unset("FLOAT", "the preset's for the method")] = None
    """Step size in latent units."""
    decay: Annotated[float | None, _unset("FLOAT")] = None
    """Factor of the learning rate at each decay."""
    decays: Annotated[int | None, _unset("INT")] = None
    """Number of decays in a run."""
    text_scale: Annotated[float | None, _unset("FLOAT")] = None
    """w_y: how strongly the instruction is followed."""
    image_scale: Annotated[float | None, _unset("FLOAT")] = None
    """w_s: how closely the source is kept."""
    t_range: Annotated[tuple[float, float] | None, _unset("LOW HIGH")] = None
    """First and last timestep, as fractions of the prior's schedule."""
    noise: Annotated[
        Literal["shared", "independent"] | None,
        _unset("{shared,independent}", "shared; independent for ip2p"),
    ] = None
    """One noise for all (a field, for windows), or one for each window or frame."""
    kernel_on: Literal["noisy", "clean"] = "noisy"
    """Whether the kernel compares noisy or clean latents."""
    normalize: Annotated[Literal["n", "rowsum"] | None, _unset("{n,rowsum}")] = None
    """Divide mixed residuals by their number or by the kernel's sum."""
    repulsion: Annotated[float | None, _unset("FLOAT")] = None
    """Weight of the term that pushes particles apart."""
    drawing: Annotated[Literal["balanced", "uniform"] | None, _unset("{balanced,uniform}")] = None
    """Draw so that all places get equally many updates, or by chance, as the paper does."""
    steps: Annotated[int | None, _unset("INT")] = None
    """Sampling steps of the ip2p methods."""
    solver: Annotated[
        Literal["ddim", "euler-ancestral"] | None, _unset("{ddim,euler-ancestral}")
    ] = None
    """Sampler of the ip2p methods."""
    resume: bool = False
    """Go on from the state that an interrupted run left beside its output.
    What is finished is left as it is."""
    save_every: int = 50
    """Iterations between saved states; 0 saves none."""
    preview_every: int = 50
    """Iterations between preview pictures beside the output; 0 makes none."""
    overwrite: bool = False
    """Replace outputs that exist."""

    def values(self) -> Values:
        """The preset's values, those of the method over them, and the given ones over both."""
        method: str = getattr(self, "method")  # noqa: B009
        chosen = {**_PRESETS[self.preset], **self._by_method(method)}
        names = [field.name for field in dataclasses.fields(Values)]
        given = {n: v for n in names if (v := getattr(self, n, None)) is not None}
        return Values(**{**chosen, **given})

    def _by_method(self, method: str) -> dict[str, Any]:
        raise NotImplementedError

    def check_prompt(self) -> None:
        """Check that there is an instruction.

        Raises:
            ValueError: If there is none.
        """
        if not self.prompt.strip():
            raise ValueError(
                f'--prompt needs an instruction, got {self.prompt!r}; give --prompt "...".'
            )

    def __post_init__(self) -> None:
        """Check the ranges that can be checked without a prior."""
        for name in ("batch", "iterations", "updates", "decays", "steps", "size", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
        for name in ("save_every", "preview_every"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be 0 or more, got {getattr(self, name)}."
                )
        for name in ("learning_rate", "decay"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}.")
        if self.residual == "dds" and not (self.source_prompt or "").strip():
            raise ValueError(
                "--residual dds needs a description of the input, got "
                f'{self.source_prompt!r}; give --source-prompt "a photo of ...", and a --prompt '
                "that describes the result."
            )
        if self.residual == "dds" and getattr(self, "method") not in _DISTILLED:  # noqa: B009
            raise ValueError(
                f"--residual dds needs --method {' or '.join(_DISTILLED)}, got "
                f"{getattr(self, 'method')}."  # noqa: B009
            )
        low, high = self.t_range or (0, 1)
        if not 0 <= low < high <= 1:
            raise ValueError(f"--t-range needs 0 <= low < high <= 1, got {low} {high}.")


@dataclass(frozen=True)
class PanoramaOptions(EditOptions):
    """How a panorama is edited."""

    method: PanoramaMethod = "csd"
    """csd: windows share their scores. csd-no-stein: each window by itself.
    sds: the noise as baseline, no sharing. ip2p-downsize: InstructPix2Pix on the shrunken image.
    ip2p-windows: InstructPix2Pix on all windows, averaged at every step, as MultiDiffusion does."""
    region: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PROMPT@PLACE")
    ] = ()
    """An instruction for a part: "PROMPT@x0,y0,x1,y1" in pixels or percent (10%).
    Or "PROMPT@mask.png": a picture of the input's size, white where it holds.
    What no region covers takes --prompt, or stays as it is without one."""
    stride: Annotated[int | None, _unset("INT", "a quarter of a window")] = None
    """Latent cells between neighbouring windows."""
    taper: Annotated[int | None, _unset("INT", "the stride")] = None
    """Latent cells over which a window's step fades in from its edge.
    0: the paper's plain average."""
    wrap: bool = False
    """The image is equirectangular: its left and right edges meet."""

    def check_prompt(self) -> None:
        """Check that there is an instruction, at least for a region.

        Raises:
            ValueError: If there is none.
        """
        if not self.region:
            super().check_prompt()

    def _by_method(self, method: str) -> dict[str, Any]:
        if self.preset == "tiny":
            rates = {"csd": 2.0, "csd-no-stein": 1.5}
            if method in rates:
                return {"learning_rate": rates[method], "updates": 20}
            if method == "sds":
                return {"learning_rate": 1.5, "updates": 20, "text_scale": 1.0}
            return {"learning_rate": 1.0, "updates": 1, "text_scale": 2.0, "image_scale": 1.5}
        # The release's rate and image scale; the paper's 200 iterations of 4 windows update a
        # cell of 1920x512 about 213 times. Without mixing a step at batch 4 is 2.5 times as long.
        rate = 2.0 if method == "csd" else 0.8
        sampled = method.startswith("ip2p")
        return {
            "learning_rate": rate,
            "updates": 200,
            "image_scale": 1.5 if sampled else 5.0,
        }


@dataclass(frozen=True)
class VideoOptions(EditOptions):
    """How a video is edited."""

    method: VideoMethod = "csd"
    """csd: frames share their scores. csd-no-stein: each frame by itself.
    sds: the noise as baseline, no sharing. ip2p: InstructPix2Pix on each frame."""
    frames: Annotated[str, tyro.conf.arg(metavar="INT|all")] = "all"
    """Number of frames, sampled evenly (the paper takes 24), or all."""
    square: bool = False
    """Squash frames to squares for the edit, as the paper does; else they keep their aspect."""
    decoder: Decoder = "vae"
    """What turns latents into frames.
    consistency, temporal: diffusers' decoders for Stable Diffusion latents, which flicker less."""
    decoder_weights: Annotated[str | None, _unset("NAME|FOLDER", "the published one")] = None
    """Hub id or folder of the consistency or temporal decoder."""

    def _by_method(self, method: str) -> dict[str, Any]:
        if self.preset == "tiny":
            rates = {"csd": 2.0, "csd-no-stein": 2.0}
            if method in rates:
                return {"learning_rate": rates[method], "updates": 20, "batch": 8}
            if method == "sds":
                return {"learning_rate": 1.0, "updates": 20, "batch": 8, "text_scale": 1.0}
            sampling = {"text_scale": 2.0, "image_scale": 1.5, "noise": "independent"}
            return {"learning_rate": 1.0, "updates": 1, "batch": 8, **sampling}
        # The paper gives a rate of 0.25 to 2 and 200 to 500 iterations; the rest is ours.
        values = {
            "learning_rate": 1.0 if method == "csd" else 0.25,
            "updates": 100,
            "batch": 8,
            "image_scale": 1.5,
        }
        return {**values, "noise": "independent"} if method == "ip2p" else values


_Inputs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="INPUT...", help_behavior_hint="(required)"),
]


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What is read and written; comes before the options."""

    inputs: _Inputs
    output: Path


@dataclass(frozen=True, kw_only=True)
class PanoramaCommand(PanoramaOptions, _Files):
    """Edit pictures of any size by an instruction, such as panoramas, also of 360 degrees."""

    inputs: _Inputs
    """One picture or more."""
    output: Path
    """Picture to make: .png, .jpg or .webp.
    For several inputs a folder; the results are named like them."""

    def run(self, command: list[str]) -> int:
        """Edit; the exit code. `command` is the command line, for the records."""
        from csd_nerf.adapters.run import run_panoramas

        options = _part(self, PanoramaOptions)
        return run_panoramas(self.inputs, self.output, options, command=command)


@dataclass(frozen=True, kw_only=True)
class VideoCommand(VideoOptions, _Files):
    """Edit videos by an instruction; frame rate and sound are kept."""

    inputs: _Inputs
    """One video file or folder of frames, or more."""
    output: Path
    """Video to make: .mp4, .mov, .mkv or .webm; or a folder for frames.
    For several inputs a folder; the results are named like them."""

    def run(self, command: list[str]) -> int:
        """Edit; the exit code. `command` is the command line, for the records."""
        from csd_nerf.adapters.run import run_videos

        options = _part(self, VideoOptions)
        return run_videos(self.inputs, self.output, options, command=command)


_Options = TypeVar("_Options", PanoramaOptions, VideoOptions)


def _part(command: _Options, kind: type[_Options]) -> _Options:
    """The options of a command, without its files."""
    return kind(**{item.name: getattr(command, item.name) for item in dataclasses.fields(kind)})
