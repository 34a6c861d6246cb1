"""The measures of an object that was made from a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.inputs import sorted_pictures
from benchmarks.text_to_3d.object_truth import colour_distance, knows, silhouette_overlap
from benchmarks.text_to_3d.runs import RunViews
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import to_01

if TYPE_CHECKING:
    from csd_nerf.evaluation.clip import Clip


@dataclass(frozen=True)
class Judges:
    """Networks that judge views; None where they weren't asked for."""

    clip: Clip | None = None
    fid: Callable[[Float[Tensor, "n 3 h w"]], float] | None = None


def measure(views: RunViews, prompt: str, judges: Judges) -> Row:
    """All measures of one run that can be made.

    FID is biased upwards with as few images as one run has: compare only equally many. The paper's
    is of all of a method's views; `benchmarks paper table5` makes it of the folders of an arm.
    """
    row: Row = {}
    if knows(prompt):
        overlap = silhouette_overlap(views.coverage, prompt)
        row |= {"overlap": overlap.value, "scale": overlap.scale, "shift": list(overlap.shift)}
        row["colour_distance"] = colour_distance(views.colour01, views.coverage, prompt)
    if judges.clip is not None:
        from csd_nerf.evaluation.clip import text_similarity

        text = judges.clip.text_features([prompt])
        for key, image01 in (("colour", views.colour01), ("geometry", views.depth01)):
            row[f"clip_{key}"] = text_similarity(judges.clip.image_features(image01), text)
    if judges.fid is not None:
        row["fid"] = judges.fid(views.colour01)
    return row


def load_judges(
    *, clip: str | None, reference: Path | None, inception: Path | None, device: str
) -> Judges:
    """Load the networks that are asked for.

    Args:
        clip: An OpenCLIP model or folder.
        reference: Pictures for FID.
        inception: Weights of FID's network; None means its usual download.
        device: Where they run.

    Raises:
        ValueError: If CLIP's name is unknown, or there are too few pictures.
        FileNotFoundError: If weights or the folder are missing.
    """
    model = fid = None
    if clip is not None:
        from csd_nerf.evaluation.clip import load_clip

        model = load_clip(clip, device=device)
    if reference is not None:
        fid = _fid_to(reference, inception, device)
    return Judges(model, fid)


def _fid_to(
    folder: Path, weights: Path | None, device: str
) -> Callable[[Float[Tensor, "n 3 h w"]], float]:
    """FID to the pictures of a folder, whose features are computed now."""
    pictures = sorted_pictures(folder)
    if len(pictures) < 2:
        raise ValueError(f"--reference needs 2 pictures or more, got {len(pictures)} in {folder}.")
    from csd_nerf.evaluation.fid import frechet_distance, load_inception

    features = load_inception(weights, device)
    images = (to_01(read_image(path)[0][None]) for path in pictures)
    reference = torch.cat([features(image01) for image01 in images])
    return lambda image01: frechet_distance(features(image01), reference)
