"""View-dependent prompts: text embeddings interpolated by the camera's position.

Azimuth is counted from the front, elevation from the horizon upwards, both in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.rows import Rows
from csd_nerf.priors.base import Prior
from csd_nerf.priors.estimates import Texts

VIEWS = ("front", "side", "back", "overhead")


def view_weights(
    azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"], *, overhead: float
) -> Float[Tensor, "n 4"]:
    """Weights of front, side, back and overhead in each camera's prompt; rows sum to one.

    Front, side and back are interpolated linearly in the azimuth: front at 0, side at a quarter
    turn, back at half a turn. The weight of overhead rises linearly in the elevation, from 0 at 20
    degrees below `overhead` to 1 at 20 degrees above it; the other weights are reduced accordingly.

    Args:
        azimuth: In radians, modulo a whole turn.
        elevation: In radians, from -pi/2 to pi/2.
        overhead: Elevation in radians at which overhead has weight 1/2.
    """
    turn = ((azimuth + torch.pi) % (2 * torch.pi) - torch.pi).abs() / (torch.pi / 2)
    front, back = (1 - turn).clamp(min=0), (turn - 1).clamp(min=0)
    around = torch.stack([front, 1 - front - back, back], dim=1)
    half = torch.pi / 9
    top = ((elevation - overhead) / (2 * half) + 0.5).clamp(0, 1)[:, None]
    return torch.cat([around * (1 - top), top], dim=1)


@dataclass(frozen=True)
class ViewPrompts:
    """The encoded prompts of all views, and the empty text."""

    by_view: Rows
    """One row for each of `VIEWS`."""
    empty: Rows
    overhead: float

    @classmethod
    def encode(
        cls,
        prior: Prior,
        prompt: str,
        *,
        negative_prompt: str,
        template: str,
        overhead: float,
    ) -> ViewPrompts:
        """Encode a prompt for each of `VIEWS`.

        Args:
            prior: The prior whose text encoder to use; it isn't needed afterwards.
            prompt: Description of the object.
            negative_prompt: Replaces the empty text.
            template: Format of a view's prompt, with {prompt} and {view}.
            overhead: Elevation at which the view overhead has weight 1/2, in radians.
        """
        seen = [template.format(prompt=prompt, view=view) for view in VIEWS]
        return cls(prior.encode_text(seen), prior.encode_text([negative_prompt]), overhead)

    def of_cameras(self, azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"]) -> Texts:
        """The text of each camera: the views' embeddings, averaged with `view_weights`."""
        weights = view_weights(azimuth, elevation, overhead=self.overhead)
        prompt = {
            name: torch.einsum("nk,k...->n...", weights.to(rows), rows)
            for name, rows in self.by_view.items()
        }
        return Texts([prompt], self.empty)
