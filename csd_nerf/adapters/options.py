"""How panoramas, videos and sets of pictures are edited: the options that name no files.

This module imports nothing heavy, since the command line needs it for its help. An option that is
None takes its value from the preset and the method; see `EditOptions.values`. The docstrings of
fields are the command's help, which keeps their line breaks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from csd_nerf.adapters.presets import (
    ImageMethod,
    ImagePreset,
    PanoramaMethod,
    Preset,
    Values,
    VideoMethod,
    image_values,
    panorama_values,
    video_values,
)
from csd_nerf.media.places import parse_region
from csd_nerf.numbers import non_finite_fields

MISTAKES = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)
"""Exceptions that are reported to the user as one line; all others are bugs."""

Decoder = Literal["vae", "consistency", "temporal"]


def _unset(metavar: str, default: str = "the preset's") -> Any:
    """The help of an option whose default, None, is replaced by another value later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_TAKEN_BY = {
    "--residual dds": ("csd", "csd-no-stein"),
    "--source-share": ("csd", "csd-no-stein"),
    "--source-bank": ("csd", "csd-no-stein"),
    "--stop-below": ("csd", "csd-no-stein", "sds"),
    "--quantity velocity": ("csd", "csd-no-stein"),
    "--mixing": ("csd", "sds"),
    "--t-order": ("csd", "csd-no-stein", "sds"),
}
"""Options that only some methods take, with these methods."""
_DISPLACES = {"updates": "iterations", "decays": "decay_every"}
"""Options that, if given, displace the preset's value of another one."""


@dataclass(frozen=True)
class EditOptions:
    """The options that panoramas, videos and sets of pictures have in common."""

    prompt: str = ""
    """The instruction, such as "turn it into a watercolour"."""
    negative_prompt: str = ""
    """What the result should not show; replaces the empty text in guidance."""
    source_prompt: Annotated[str | None, _unset("TEXT", "not given")] = None
    """Description of the input, such as "a photo of a man"; needed by --residual dds only."""
    residual: Literal["csd", "dds"] = "csd"
    """Residual of the methods csd and csd-no-stein. csd: CSD-Edit, with an editing model.
    dds: Delta Denoising Score, with a text-to-image model such as stable-diffusion; --prompt then
    describes the result and --source-prompt the input."""
    control: Annotated[Literal["canny", "depth"] | None, _unset("{canny}", "none")] = None
    """What a ControlNet beside stable-diffusion keeps of the input, with --residual dds.
    canny: its edges. (depth is for scenes, which render it.)"""
    control_model: Annotated[str | None, _unset("NAME|FOLDER", "the prior's usual one")] = None
    """The ControlNet: a short name of `csd-nerf weights`, a hub id, or a folder with config.json
    and weights at its top."""
    control_scale: Annotated[float | None, _unset("FLOAT", "1")] = None
    """Factor of the ControlNet's outputs: how strongly the structure is kept."""
    preset: Preset = "full"
    """Sets all options whose default is given as "the preset's".
    full: InstructPix2Pix on a GPU with 24 GB. small: the same in smaller batches, for 12 GB.
    release: as the authors' published scripts, for comparison; with --square also their size of
    frames. tiny: the bundled prior, on a CPU."""
    prior: Annotated[str | None, _unset("NAME|FOLDER")] = None
    """Diffusion model: instruct-pix2pix, sdxl-instruct-pix2pix, flux2-klein, flux-kontext,
    qwen-image-edit, tiny, stable-diffusion (for dds), a hub id or a folder. Scales and noise levels
    that are not given are those of its authors, if it is not the preset's."""
    prior_variant: Annotated[
        str | None, _unset("NAME", "fp16 in half precision, if all of it is there")
    ] = None
    """Variant of the weight files, such as fp16 for *.fp16.safetensors."""
    prior_offload: Literal["none", "text", "model"] = "none"
    """What waits on the CPU until the GPU needs it; saves memory and takes time, with the same
    result. text: the text encoders. model: the denoiser's layers too."""
    prior_quantize: Literal["none", "8bit", "4bit"] = "none"
    """Precision of the weights of linear layers; saves memory and changes the result.
    8bit and 4bit need a GPU and pip install bitsandbytes accelerate."""
    prior_compile: Annotated[
        Literal["auto", "on", "graphs", "off"] | None, _unset("{auto,on,graphs,off}")
    ] = None
    """Whether the denoiser is compiled as its first call begins; takes about a minute, and then
    less time an evaluation, with the same result up to rounding.
    auto: on a GPU, if nothing is offloaded, quantised or split. graphs: with CUDA graphs, which
    take more memory."""
    prior_split: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME...", help_behavior_hint="(default: none)")
    ] = ()
    """Further devices, such as cuda:1 cuda:2, for a model that exceeds one GPU: each takes a part
    of the denoiser's blocks, with the same result. Not with torchrun, whose processes have a GPU
    each."""
    device: Annotated[str | None, _unset("NAME", "a GPU if there is one; cpu for tiny")] = None
    """Where the prior runs, such as cuda:0 or cpu."""
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"] | None,
        _unset("{auto,float32,float16,bfloat16}"),
    ] = None
    """Precision of the prior. auto: half precision on a GPU, float32 on a CPU."""
    condition: Annotated[Literal["raw", "scaled"] | None, _unset("{raw,scaled}")] = None
    """Scale of the source's latent where it conditions InstructPix2Pix.
    raw: as the model was trained. scaled: times the autoencoder's factor, as in the authors'
    release, which needs a larger --image-scale."""
    max_batch: Annotated[int | None, _unset("INT")] = None
    """Most model evaluations in one call; lower saves memory, with the same result.
    It is halved automatically if memory runs out."""
    seed: int = 0
    """Random seed; on the CPU the same seed gives the same pixels."""
    size: Annotated[int | None, _unset("INT", "the input's")] = None
    """Longer edge in pixels at which the edit is computed; the result has the input's size."""
    keep_detail: Annotated[bool | None, _unset("", "for looks with the bundled prior")] = None
    """Keep the input's fine detail: only the change is enlarged to its size, and added to it.
    --no-keep-detail: the result is what the prior's decoder makes."""
    segmenter: Annotated[str | None, _unset("NAME|FOLDER", "clipseg")] = None
    """The model that finds what a word of --region names: clipseg, a hub id or a folder."""
    batch: Annotated[int | None, _unset("INT", "the preset's; release: all frames")] = None
    """Windows or frames per iteration."""
    iterations: Annotated[int | None, _unset("INT", "as many as --updates needs; release: 200")] = (
        None
    )
    """Number of iterations."""
    updates: Annotated[int | None, _unset("INT")] = None
    """Mean number of updates of each latent cell or frame."""
    learning_rate: Annotated[float | None, _unset("FLOAT", "the preset's for the method")] = None
    """Step size in latent units, before decay."""
    decay: Annotated[float | None, _unset("FLOAT")] = None
    """Factor by which the learning rate is multiplied at each decay."""
    decays: Annotated[int | None, _unset("INT")] = None
    """Number of decays of the learning rate, evenly spaced over the run.
    Without it release decays every 20 iterations."""
    text_scale: Annotated[float | None, _unset("FLOAT")] = None
    """w_y of Eq. 3: how strongly the instruction is followed."""
    image_scale: Annotated[float | None, _unset("FLOAT")] = None
    """w_s of Eq. 3: how closely the source is kept."""
    t_range: Annotated[tuple[float, float] | None, _unset("LOW HIGH")] = None
    """Lowest and highest timestep that is drawn, as fractions of the prior's schedule."""
    t_order: Annotated[
        Literal["random", "falling", "falling-first"] | None,
        _unset("{random,falling,falling-first}"),
    ] = None
    """random: timesteps are drawn from the whole range at every step, as in the paper.
    falling: from a band that moves from the top of the range to its bottom over the run.
    falling-first: falling in the first half of the run, random in the second."""
    source_share: Annotated[float | None, _unset("FLOAT")] = None
    """Share of the source's estimate, from 0 to 1, in what csd and csd-no-stein subtract.
    The rest is the drawn noise. 1: CSD-Edit. 0: SDS."""
    quantity: Annotated[Literal["noise", "velocity"] | None, _unset("{noise,velocity}")] = None
    """Between which estimates of the model the residual is.
    noise: of the noise, as in the paper. velocity: for flow models, of the velocity (DRFS); the
    levels then fall once, and the learning rate, 1, is a factor of the whole path."""
    shift: Annotated[float | None, _unset("FLOAT")] = None
    """With --quantity velocity, from 0 to 1: how far the noise of the result follows the edit.
    0: it is the input's. 1: as in FlowEdit."""
    source_bank: Annotated[int | None, _unset("INT")] = None
    """Edit with this many pairs of timestep and noise only, and compute the source's estimates once
    for each, which saves up to two of five evaluations. 0: draw new ones at every iteration."""
    stop_below: Annotated[float | None, _unset("FLOAT")] = None
    """End once the mean step over 10 iterations has a rms below this, in latent units.
    0: do all iterations."""
    noise: Annotated[
        Literal["shared", "independent"] | None,
        _unset("{shared,independent}", "the preset's for the method"),
    ] = None
    """shared: one noise for all frames, or one noise field under all windows.
    independent: a noise for each window or frame."""
    mixing: Annotated[
        Literal["stein", "patch"] | None,
        _unset("{stein,patch}", "the preset's for csd, none for sds"),
    ] = None
    """How windows or frames share their scores. stein: by a kernel between them (Eq. 8).
    patch: by a kernel between small patches of the input."""
    kernel_on: Literal["noisy", "clean"] = "noisy"
    """Latents that the kernel compares: noisy (z_t) or clean (x)."""
    normalize: Annotated[Literal["n", "rowsum"] | None, _unset("{n,rowsum}")] = None
    """What mixed residuals are divided by. n: the number of particles.
    rowsum: the sum of a particle's kernel values."""
    repulsion: Annotated[float | None, _unset("FLOAT")] = None
    """Weight of the term that pushes particles apart."""
    drawing: Annotated[Literal["balanced", "uniform"] | None, _unset("{balanced,uniform}")] = None
    """balanced: sweep after sweep over all windows or frames, so that updates are even.
    uniform: random windows or frames in every batch, as in the paper."""
    steps: Annotated[int | None, _unset("INT")] = None
    """Sampling steps of the ip2p methods."""
    solver: Annotated[
        Literal["ddim", "euler-ancestral"] | None, _unset("{ddim,euler-ancestral}")
    ] = None
    """Sampler of the ip2p methods."""
    resume: bool = False
    """Continue an interrupted run from the state beside its output.
    Finished outputs are kept."""
    save_every: int = 50
    """Iterations between saved states; 0 turns saving off."""
    preview_every: int = 50
    """Iterations between preview pictures beside the output; 0 turns previews off."""
    overwrite: bool = False
    """Replace existing outputs."""

    def values(self) -> Values:
        """Final values: given options first, then those of the method, then those of the preset."""
        chosen = self._chosen()
        # The release's numbers are compared with the release, whatever the prior.
        if self.preset != "release" and self.prior not in (None, chosen["prior"]):
            # Late: it imports torch, which the command's help doesn't need.
            from csd_nerf.priors import usual_numbers

            # The preset's are those of its own prior.
            chosen |= usual_numbers(self.prior)
        if self.quantity == "velocity":
            from csd_nerf.core.settings import VELOCITY

            chosen |= VELOCITY
        for option, other in _DISPLACES.items():
            if getattr(self, option) is not None:
                chosen[other] = None
        if self.residual == "dds":
            # A text-to-image model has no condition, and DDS is its source's estimate.
            chosen |= {"condition": "raw", "source_share": 1.0}
        names = [field.name for field in dataclasses.fields(Values)]
        given = {n: v for n in names if (v := getattr(self, n, None)) is not None}
        return Values(**{**chosen, **given})

    def _chosen(self) -> dict[str, Any]:
        """Values of the preset for the method."""
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
        """Check all that can be checked without a prior."""
        for name, value in non_finite_fields(self):
            raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}.")
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
        for name in ("source_bank", "stop_below"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"--{name.replace('_', '-')} can't be negative, got {value}.")
        low, high = self.t_range or (0, 1)
        if not 0 <= low < high <= 1:
            raise ValueError(f"--t-range needs 0 <= low < high <= 1, got {low} {high}.")
        self._check_control()
        if self.source_share is not None and not 0 <= self.source_share <= 1:
            raise ValueError(f"--source-share must be from 0 to 1, got {self.source_share}.")
        self._check_method()
        if self.shift is not None:
            self._check_shift(self.shift)

    def _check_method(self) -> None:
        """Refuse options that the method doesn't take."""
        method: str = getattr(self, "method")  # noqa: B009
        given = {
            "--residual dds": self.residual == "dds",
            "--source-share": self.source_share is not None,
            "--source-bank": bool(self.source_bank),
            "--stop-below": bool(self.stop_below),
            "--quantity velocity": self.quantity == "velocity",
            "--mixing": self.mixing is not None,
            "--t-order": self.t_order is not None,
        }
        for option, methods in _TAKEN_BY.items():
            if given[option] and method not in methods:
                raise ValueError(f"{option} needs --method {' or '.join(methods)}, got {method}.")
        self._check_kernel(method)

    def _check_control(self) -> None:
        """Refuse a ControlNet where it can't be heeded, and its options without one."""
        for name in ("control_model", "control_scale"):
            if getattr(self, name) is not None and self.control is None:
                raise ValueError(
                    f"--{name.replace('_', '-')} needs a ControlNet, got {getattr(self, name)} "
                    "without; add --control canny."
                )
        if self.control == "depth":
            raise ValueError(
                "--control depth needs a scene, which renders it, got a picture or a video; take "
                "--control canny."
            )
        if self.control is not None and self.residual != "dds":
            raise ValueError(
                f"--control {self.control} needs --residual dds, got {self.residual}; set it, or "
                "leave the control out."
            )
        if self.control_scale is not None and self.control_scale < 0:
            raise ValueError(f"--control-scale must be 0 or more, got {self.control_scale}.")

    def _check_shift(self, shift: float) -> None:
        if not 0 <= shift <= 1:
            raise ValueError(f"--shift must be from 0 to 1, got {shift}.")
        if self.quantity != "velocity":
            raise ValueError(
                f"--shift needs --quantity velocity, got {shift} without it; add it, or leave "
                "--shift out."
            )

    def _check_kernel(self, method: str) -> None:
        """Refuse options of the kernel between images if nothing is mixed by it."""
        given = {
            "--kernel-on clean": self.kernel_on == "clean",
            "--normalize": self.normalize is not None,
            "--repulsion": self.repulsion is not None,
        }
        mixing = self.values().mixing
        for option, is_given in given.items():
            if is_given and mixing != "stein":
                raise ValueError(
                    f"{option} needs the mixing stein, got {mixing} from --method {method} and "
                    f"--preset {self.preset}; take csd with --mixing stein, or leave it out."
                )


@dataclass(frozen=True)
class PanoramaOptions(EditOptions):
    """How a panorama is edited."""

    method: PanoramaMethod = "csd"
    """csd: windows share their scores. csd-no-stein: each window follows its own score.
    sds: the same with SDS, which subtracts the drawn noise. ip2p-downsize: InstructPix2Pix on the
    shrunken image. ip2p-windows: InstructPix2Pix on all windows, averaged at every step, as in
    MultiDiffusion."""
    region: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PLACE|PROMPT@PLACE")
    ] = ()
    """Where to edit: "x0,y0,x1,y1" in pixels or percent (10%), "mask.png" of the input's shape that
    is white there, a folder of masks named like the inputs, or a word such as "the car".
    There --prompt applies, and the rest keeps its very pixels. With "PROMPT@PLACE", once or several
    times, each place has an instruction of its own; the rest then follows --prompt, if given."""
    stride: Annotated[int | None, _unset("INT", "a quarter of a window")] = None
    """Latent cells between neighbouring windows."""
    taper: Annotated[int | None, _unset("INT", "the stride")] = None
    """Latent cells over which a window's step fades in from its edge.
    0: no fading, as in the paper."""
    wrap: bool = False
    """For 360 degree panoramas: the left and right edges of the image meet."""

    def check_prompt(self) -> None:
        """Check that there is an instruction, for the picture or for each region.

        Raises:
            ValueError: If there is none, or a region's text has another form.
        """
        prompts = [parse_region(text).prompt for text in self.region]
        if not prompts or None in prompts:
            super().check_prompt()

    def _chosen(self) -> dict[str, Any]:
        return panorama_values(self.preset, self.method)


@dataclass(frozen=True)
class VideoOptions(EditOptions):
    """How a video is edited."""

    method: VideoMethod = "csd"
    """csd: frames share their scores. csd-no-stein: each frame follows its own score.
    sds: the same with SDS, which subtracts the drawn noise. ip2p: InstructPix2Pix on each frame."""
    frames: Annotated[str, tyro.conf.arg(metavar="INT|all")] = "all"
    """Number of evenly spaced frames to edit (the paper takes 24), or all."""
    region: Annotated[str | None, _unset("PLACE", "everywhere")] = None
    """Where to edit; the rest of each frame keeps its very pixels. "x0,y0,x1,y1" in pixels or
    percent (10%), "mask.png" of the frames' shape that is white there, both for all frames; a
    folder of masks, named or numbered like the frames (those of a film from 0), between which
    masks are carried along the motion; or a word such as "the car"."""
    square: bool = False
    """Edit frames resized to squares, as the paper does; otherwise they keep their aspect ratio."""
    decoder: Decoder = "vae"
    """Decoder of the edited latents. vae: the prior's own.
    consistency, temporal: diffusers' decoders for Stable Diffusion latents, which flicker less."""
    decoder_weights: Annotated[str | None, _unset("NAME|FOLDER", "the published one")] = None
    """Hub id or folder of the consistency or temporal decoder."""

    def check_prompt(self) -> None:
        """Check that there is an instruction, and that the region is a place alone.

        Raises:
            ValueError: If not.
        """
        super().check_prompt()
        _check_place(self.region, of="a video")

    def _chosen(self) -> dict[str, Any]:
        return video_values(self.preset, self.method)


def _check_place(region: str | None, *, of: str) -> None:
    """Refuse a region with an instruction of its own."""
    if region is not None and parse_region(region).prompt is not None:
        raise ValueError(
            f"The --region of {of} needs a place without an instruction, got {region!r}; name the "
            "instruction with --prompt."
        )


@dataclass(frozen=True)
class ImageOptions(EditOptions):
    """How a set of pictures is edited."""

    preset: ImagePreset = "full"
    """Sets all options whose default is given as "the preset's".
    full: InstructPix2Pix on a GPU with 24 GB. small: the same in smaller batches, for 12 GB.
    tiny: the bundled prior, on a CPU."""
    method: ImageMethod = "csd"
    """csd: the pictures share their scores. csd-no-stein: each picture follows its own score.
    sds: the same with SDS, which subtracts the drawn noise. ip2p: InstructPix2Pix on each.
    Pictures of other shapes are edited at other sizes; scores are shared among those of one."""
    size: Annotated[int | None, _unset("INT", "the area the prior was trained on")] = None
    """Longer edge in pixels at which pictures are edited; results have their inputs' sizes."""
    batch: Annotated[int | None, _unset("INT", "all of a group; tiny: at most 16")] = None
    """Pictures of one size that share an iteration."""
    iterations: Annotated[int | None, _unset("INT", "as many as --updates needs")] = None
    """Number of iterations of each group of pictures."""
    region: Annotated[str | None, _unset("PLACE", "everywhere")] = None
    """Where to edit; the rest of each picture keeps its very pixels. "x0,y0,x1,y1" in pixels or
    percent (10%) of each picture, "mask.png" of the pictures' shape that is white there, a folder
    of masks named like the pictures, or a word such as "the vase". A picture without a mask in the
    folder stays as it is."""

    def check_prompt(self) -> None:
        """Check that there is an instruction, and that the region is a place alone.

        Raises:
            ValueError: If not.
        """
        super().check_prompt()
        _check_place(self.region, of="a set of pictures")

    def _chosen(self) -> dict[str, Any]:
        return image_values(self.preset, self.method)
