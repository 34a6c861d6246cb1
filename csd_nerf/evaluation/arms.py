"""The arms of the benchmark: the methods as data, what they edit, and how one is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.layout import plan_layout
from csd_nerf.adapters.options import EditOptions, PanoramaOptions, VideoOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.adapters.video import edit_frames
from csd_nerf.core.guidance import Baseline, edit_weights
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.evaluation.pictures import to_uint8
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.edits import Edit, all_edits
from csd_nerf.synthetic.panoramas import find_panorama, render_panorama
from csd_nerf.synthetic.scenes import Split
from csd_nerf.synthetic.videos import find_video, render_video

Medium = Literal["panorama", "video"]

_MANY = 100
"""Updates over which the cost of one is averaged."""

EDITS = (
    "night",
    "floor grass",
    "sky orange",
    "sepia",
    "blueprint",
    "fog",
    "sunset",
    "floor water",
    "sky pink",
    "negative",
    "infrared",
    "floor sand",
)
"""What is asked for, one edit an input: looks, floors, skies and fog, which the prior knows."""
PANORAMA_SIZE = (96, 256)
"""Height and width in pixels."""
FRAME_SIZE = (64, 64)
FRAMES = 10
SEEDS_APART = 7
"""Seeds between the places from which two inputs look for a scene that shows their edit."""


@dataclass(frozen=True)
class Input:
    """An input and its true edit; a panorama is one frame."""

    name: str
    edit: Edit
    source: UInt8[Tensor, "n h w 3"]
    truth01: Float[Tensor, "n 3 h w"]

    @property
    def source01(self) -> Float[Tensor, "n 3 h w"]:
        """The source as the methods see it, with its 8 bits."""
        return _to_01(self.source)


@dataclass(frozen=True)
class Arm:
    """A method, and where it departs from the tiny preset."""

    name: str
    method: str | None
    """None for a reference: what bounds the methods rather than being one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    tiles: bool = False
    """Windows that lie side by side instead of overlapping."""


REFERENCES = (Arm("source", None), Arm("autoencoder", None))
"""Nothing done, and the true edit encoded and decoded, which shows the autoencoder's own errors."""
BASELINES: dict[str, Baseline] = {"csd": "source", "csd-no-stein": "source", "sds": "noise"}
"""The methods that optimise, and what they subtract."""
_OPTIMISED = tuple(Arm(name, name) for name in BASELINES)
ARMS: dict[Medium, tuple[Arm, ...]] = {
    "panorama": (
        *REFERENCES,
        *_OPTIMISED,
        Arm("csd-paper-drawing", "csd", {"drawing": "uniform", "taper": 0}),
        Arm("ip2p-downsize", "ip2p-downsize"),
        Arm("ip2p-windows", "ip2p-windows"),
        Arm("ip2p-tiles", "ip2p-windows", tiles=True),
    ),
    "video": (*REFERENCES, *_OPTIMISED, Arm("ip2p", "ip2p")),
}
"""csd-paper-drawing draws windows by chance and averages them plainly."""


def chosen_arms(medium: Medium, names: tuple[str, ...]) -> tuple[Arm, ...]:
    """The arms of these names in the table's order, the references with them; all without names.

    Raises:
        ValueError: If there is no such arm.
    """
    known = [arm.name for arm in ARMS[medium]]
    for name in names:
        if name not in known:
            raise ValueError(f"--arms needs some of {', '.join(known)}, got {name!r}.")
    return tuple(
        arm for arm in ARMS[medium] if not names or arm.name in names or arm.method is None
    )


def draw_input(medium: Medium, position: int, split: Split) -> Input:
    """The input at a position of the benchmark; after the last edit the first comes again."""
    edit, skip = all_edits()[EDITS[position % len(EDITS)]], SEEDS_APART * position
    if medium == "panorama":
        height, width = PANORAMA_SIZE
        panorama = find_panorama(edit, split, skip=skip, height=height, width=width)
        source01, truth01 = render_panorama(panorama), render_panorama(panorama, edit)
    else:
        height, width = FRAME_SIZE
        video = find_video(edit, split, skip=skip, frames=FRAMES)
        source01 = render_video(video, height=height, width=width)
        truth01 = render_video(video, edit, height=height, width=width)
    return Input(f"{position:02d} {edit.name}", edit, to_uint8(source01), truth01)


def arm_options(
    medium: Medium, arm: Arm, prior: Prior, given: Mapping[str, Any]
) -> PanoramaOptions | VideoOptions:
    """The options of an arm: those given over its own, and both over the tiny preset's.

    Methods that optimise get as many updates as make the U-Net evaluations of csd.
    """
    kind = PanoramaOptions if medium == "panorama" else VideoOptions
    chosen = {**arm.options, **given, "preset": "tiny"}
    if arm.tiles:
        chosen["stride"] = prior.preferred_size // prior.cell_size
    options = kind(**{**chosen, "method": arm.method})
    if arm.method not in BASELINES:
        return options
    csd = kind(**{**given, "preset": "tiny", "method": "csd"})
    updates = csd.values().updates * _update_cost(prior, csd) / _update_cost(prior, options)
    return replace(options, updates=round(updates))


def _update_cost(prior: Prior, options: PanoramaOptions | VideoOptions) -> float:
    """U-Net evaluations that update a frame, or every cell of a panorama, once on average.

    SDS asks for fewer estimates a particle than CSD, and windows that fade at their edges update
    less than plain ones.
    """
    values = options.values()
    weights = edit_weights(
        image_scale=values.image_scale,
        text_scale=values.text_scale,
        baseline=BASELINES[options.method],
    )
    branches = sum(weight != 0 for name, weight in weights._asdict().items() if name != "noise")
    if isinstance(options, VideoOptions):
        return float(branches)
    layout = plan_layout(prior, PANORAMA_SIZE, options)
    blank = torch.zeros(1, *layout.grid)
    canvas = WindowCanvas(
        blank,
        blank,
        blank,
        layout.window,
        layout.stride,
        values.batch,
        drawing=options.drawing,
        taper=options.taper,
    )
    return branches * values.batch * canvas.iterations_for(_MANY) / _MANY


def run_arm(
    prior: Prior, given: Input, options: EditOptions
) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Any]]:
    """What a method makes of an input, and the facts that its adapter tells."""
    asked = replace(options, prompt=given.edit.instructions[0])
    if isinstance(asked, PanoramaOptions):
        result = edit_panorama(prior, given.source[0], asked)
        return _to_01(result.image[None]), result.facts
    assert isinstance(asked, VideoOptions)
    frames, facts = edit_frames(prior, given.source, asked)
    return _to_01(frames), facts


def reference(prior: Prior, name: str, given: Input) -> Float[Tensor, "n 3 h w"]:
    """One of `REFERENCES`."""
    if name == "source":
        return given.source01
    return torch.cat([prior.decode(prior.encode(image[None])) for image in given.truth01])


def _to_01(image: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    return image.permute(0, 3, 1, 2).float() / 255
