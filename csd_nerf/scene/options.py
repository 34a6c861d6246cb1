"""The options of the editing stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from csd_nerf.core.schedules import check_t_range
from csd_nerf.core.settings import EditSettings
from csd_nerf.numbers import non_finite_fields
from csd_nerf.priors import Control
from csd_nerf.scene.controls import EditRequest
from csd_nerf.scene.plan import IN2N_ROUNDS, PAPER_ROUNDS, Rounds
from csd_nerf.scene.updates import IN2N_NOISE_RANGE, Update


@dataclass
class StageOptions:
    """Options of the editing stage: what is edited, when and how."""

    prompt: str = ""
    """The instruction, such as "turn it into a sepia photograph"."""
    negative_prompt: str = ""
    """What the result should not show; replaces the empty text in guidance."""
    source_prompt: str = ""
    """Description of the photographs, such as "a photo of a man". Only the residual dds needs it;
    the prompt then describes the result."""
    source_steps: int = 30000
    """Steps of training on the photographs before editing begins. If a run of another method is
    loaded, editing begins at once."""
    edit_steps: int = 15000
    """Steps of training after editing has begun."""
    edit_every: int | None = None
    """Training steps between two editing rounds; the first is done as the editing stage begins.
    None takes what the update needs: 10 for in2n, as published; for csd and ip2p 2,000, as in the
    paper (csd-edit-tiny: 120)."""
    edit_views: int | None = None
    """Number of views that are edited in a round. None takes 1 for in2n, as published, and 16 for
    csd and ip2p, as in the paper."""
    default_rounds: Rounds = PAPER_ROUNDS
    """What csd and ip2p take for `edit_every` and `edit_views` of None."""
    update: Update = "csd"
    """How a round edits its views. csd: jointly, by Collaborative Score Distillation. in2n: each
    view independently, by adding noise to its render and denoising it, as in Instruct-NeRF2NeRF.
    ip2p: each view independently, by InstructPix2Pix from pure noise. Of the options of `edit`,
    in2n and ip2p use only text_scale, image_scale and max_batch."""
    denoising_steps: int = 20
    """Sampling steps per view, for in2n and ip2p; 20 as published for in2n."""
    noise_range: tuple[float, float] = IN2N_NOISE_RANGE
    """Lowest and highest noise level to which in2n noises a render, as fractions of the prior's
    schedule; 0.02 and 0.98 as published."""
    edit: EditSettings = field(default_factory=EditSettings)
    """Options of the optimisation in a round."""
    edit_size: int | None = None
    """Edge in pixels of a square whose area edited views have, at their own aspect ratio; None
    takes the size that the prior was trained on."""
    start: Literal["render", "original"] = "render"
    """What a round of csd starts from: render, the current renders of the scene, or original, the
    photographs. in2n always starts from renders, ip2p from noise."""
    keep_detail: bool | None = None
    """Keep the photographs' fine detail: only the change made by the edit is resized and added to
    them. None does so for looks with the prior tiny, whose edits are of 64 pixels."""
    region: str = ""
    """Where the instruction applies; outside, the scene stays as it is. A box,
    "x0,y0,z0,x1,y1,z1", in the scene's own coordinates: those of Crop Viewport in nerfstudio's
    viewer and of ns-export (its obb-center plus and minus half its obb-scale). A folder with masks
    of some views or all, named like the photographs, white inside; views without one get it through
    the scene's depth. "labels:0,3": these numbers in the data's own label images, in a folder
    labels beside that of the photographs. Or a word, such as "the car", for a segmenter. Empty is
    everywhere."""
    region_model: str = "clipseg"
    """The segmenter for a word: clipseg (600 MB, optional), a hub id, or a folder with a CLIPSeg
    model of transformers."""
    control: Control | None = None
    """What a ControlNet beside Stable Diffusion keeps of each view, with the residual dds. canny:
    the edges of the photograph. depth: the depth of the scene, rendered as it is at the round. None
    takes no ControlNet."""
    control_model: str | None = None
    """The ControlNet: a short name of `csd-nerf weights`, a hub id or a folder with config.json and
    weights at its top; None takes the usual one for Stable Diffusion 1.5 or 2.1."""
    control_scale: float = 1.0
    """Factor of the ControlNet's outputs: how strongly the structure is kept."""
    repeat_noise: bool = False
    """Draw the same timesteps and noise in every round, so that views of different rounds agree
    where the instruction leaves several answers open."""
    reference_views: int = 0
    """1: the view that is edited first, alone, is shown to the model as a second reference beside
    each other view's photograph, so that their edits match it. For models that take two:
    flux2-klein and qwen-image-edit. 0: no second reference."""
    reference_prompt: str = "Make it match the second picture, which is edited already."
    """What is added to the prompt where the second reference is shown."""
    chain: bool = False
    """Edit on top of an edited scene: the source images of a new prompt's rounds are renders of the
    scene as it is when the prompt's first round begins, such as that of an edited run named by
    --load-dir, in place of the photographs."""
    history: int = 8
    """While a viewer runs: number of past rounds to which the scene can go back, each kept in a
    file of the scene's size in RUN/history; 0 keeps none. The unedited scene is always kept."""
    seed: int = 0
    """Seed of the rounds' randomness: the order of the views and the noise."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in non_finite_fields(self):
            raise ValueError(f"{name} needs to be finite, got {value}.")
        for name in ("edit_steps", "edit_every", "edit_views", "denoising_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} needs to be at least 1, got {value}.")
        if self.reference_views not in (0, 1):
            raise ValueError(
                f"reference_views needs to be 0 or 1, got {self.reference_views}; take 1 view."
            )
        check_t_range(self.noise_range, name="noise_range")
        for name in ("source_steps", "history"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} can't be negative, got {value}.")

    @property
    def rounds(self) -> Rounds:
        """`edit_every` and `edit_views`, or for None what the update needs."""
        usual = IN2N_ROUNDS if self.update == "in2n" else self.default_rounds
        return Rounds(
            every=usual.every if self.edit_every is None else self.edit_every,
            views=usual.views if self.edit_views is None else self.edit_views,
        )

    def request(self) -> EditRequest:
        """The request of a user who changes nothing."""
        return EditRequest(
            self.prompt,
            self.negative_prompt,
            self.source_prompt,
            self.edit,
            region=self.region,
            chain=self.chain,
        )
