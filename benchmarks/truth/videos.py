"""The benchmark on videos."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.truth.domains import SEEDS_APART, Arm, edit_at
from benchmarks.truth.media import (
    ABLATIONS,
    SIMILARITY,
    STRONG,
    USUAL_ARMS,
    Input,
    MediaDomain,
)
from csd_nerf.adapters.options import VideoOptions
from csd_nerf.adapters.video import edit_frames
from csd_nerf.evaluation.consistency import extra_change, flicker
from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.synthetic.scenes import Split
from csd_nerf.synthetic.videos import find_video, render_video

FRAME_SIZE = (64, 64)
"""Height and width in pixels."""
FRAMES = 10


class VideoDomain(MediaDomain):
    """Videos of `FRAMES` frames."""

    arms = (
        *USUAL_ARMS,
        Arm("ip2p", "ip2p"),
        Arm("ip2p-shared-noise", "ip2p", {"noise": "shared"}),
    )
    ablations = (*ABLATIONS, Arm("ip2p-strong", "ip2p", STRONG))
    columns = (*SIMILARITY, *named("flicker", "extra_change"))
    consistency = "flicker"
    kind = VideoOptions

    def draw(self, position: int, split: Split) -> Input:
        """The input at a position of the benchmark."""
        return draw_video(position, split)

    def cost(self, options: VideoOptions) -> float:
        """U-Net evaluations per frame of one update or sampling step."""
        return float(self.branches(options))

    def edit(
        self, given: Input, options: VideoOptions
    ) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Any]]:
        """Edit an input with these options; returns the result and the adapter's facts."""
        frames, facts = edit_frames(self._prior, given.source, options)
        return to_01(frames), facts

    def consistency_measures(
        self, given: Input, edited01: Float[Tensor, "n 3 h w"], options: VideoOptions | None
    ) -> Row:
        """Flicker, and extra change compared with the source."""
        del options
        return {
            "flicker": flicker(edited01, given.truth01),
            "extra_change": extra_change(edited01, given.source01),
        }


def draw_video(position: int, split: Split) -> Input:
    """The input at a position of the benchmark; the edits are repeated."""
    edit, (height, width) = edit_at(position, split), FRAME_SIZE
    video = find_video(edit, split, skip=SEEDS_APART * position, frames=FRAMES)
    source01 = render_video(video, height=height, width=width)
    truth01 = render_video(video, edit, height=height, width=width)
    return Input(f"{position:02d} {edit.name}", edit, to_bytes(source01), truth01)
