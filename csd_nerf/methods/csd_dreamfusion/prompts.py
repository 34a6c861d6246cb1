"""View-dependent prompts: text embeddings interpolated by where the camera stands.

Azimuth 0 is the front; it and the elevation are in radians, elevation up from the horizon.
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

    With azimuth the weights change linearly from front to side to back, a quarter turn each. With
    elevation overhead replaces them linearly, from 20 degrees below `overhead` to 20 above it.

    Args:
        azimuth: In radians; whole turns don't matter.
        elevation: From -pi/2 to pi/2.
        overhead: Elevation at which overhead has weight 1/2.
    """
    turn = ((azimuth + torch.pi) % (2 * torch.pi) - torch.pi).abs() / (torch.pi / 2)
    front, back = (1 - turn).clamp(min=0), (turn - 1).clamp(min=0)
    around = torch.stack([front, 1 - front - back, back], dim=1)
    half = torch.pi / 9
    top = ((elevation - overhead) / (2 * half) + 0.5).clamp(0, 1)[:, None]
    return torch.cat([around * (1 - top), top], dim=1)


@dataclass(frozen=True)
class ViewPrompts:
    """A prompt's encoded texts by view, and the empty text."""

    by_view: Rows
    """A row for each of `VIEWS`."""
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
        """Encode a prompt once for all views.

        Args:
            prior: Whose text encoder to use; it isn't needed afterwards.
            prompt: What to make.
            negative_prompt: Takes the place of the empty text.
            template: How the prompt names a view; holds {prompt} and {view}.
            overhead: Elevation at which the view overhead has weight 1/2, in radians.
        """
        seen = [template.format(prompt=prompt, view=view) for view in VIEWS]
        return cls(prior.encode_text(seen), prior.encode_text([negative_prompt]), overhead)

    def of_cameras(self, azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"]) -> Texts:
        """Each camera's text, a mixture of the views' by `view_weights`."""
        weights = view_weights(azimuth, elevation, overhead=self.overhead)
        prompt = {
            name: torch.einsum("nk,k...->n...", weights.to(rows), rows)
            for name, rows in self.by_view.items()
        }
        return Texts([prompt], self.empty)
