"""Measures the bundled text-to-image prior, and writes its model card.

Run it as `python -m training.text_card`; `training.tiny_text_prior` does so after training.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from csd_nerf import priors
from csd_nerf.media.files import write_json, write_text
from csd_nerf.media.sheets import enlarge, save_contact_sheet
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic import objects
from csd_nerf.synthetic.cameras import Cameras, look_at
from csd_nerf.synthetic.palette import COLOURS, SHAPES
from training.text_sampling import sample_text

ELEVATIONS = {"side": (0.0, 0.3, 0.6, 0.9), "overhead": (1.1, 1.3, 1.5)}
"""Of the true silhouettes that a view's pictures are compared with, in radians."""


@dataclass(frozen=True)
class Settings:
    """How the prior is measured."""

    prior: Path = Path("csd_nerf/assets/tiny_text")
    text_scale: float = 2.0
    steps: int = 25
    seeds: int = 2
    pictures: Path | None = None
    """Where to save a sheet of samples; None saves none."""


def silhouettes(shape: str, view: str) -> Bool[Tensor, "k 32 32"]:
    """True silhouettes of a shape from all around, small and large."""
    masks = []
    for elevation in ELEVATIONS[view]:
        for azimuth in torch.linspace(0, torch.pi / 2, 5)[:-1]:
            for focal in (0.9, 1.05, 1.2, 1.35, 1.5):
                eye = objects.orbit(azimuth[None], torch.tensor([elevation]), radius=2.5)
                camera = Cameras(look_at(eye, torch.zeros(1, 3)), torch.tensor([focal]))
                seen = objects.render_objects(
                    objects.true_object(f"a red {shape}"), camera, size=32
                )
                masks.append(seen.coverage[0] > 0.5)
    return torch.stack(masks)


def object_mask(image01: Float[Tensor, "3 32 32"], colour: str) -> Bool[Tensor, "32 32"]:
    """Pixels nearer to a colour than to the picture's border."""
    border = torch.cat([image01[:, 0], image01[:, -1], image01[:, :, 0], image01[:, :, -1]], dim=1)
    behind = border.median(dim=1).values
    wanted = torch.tensor(COLOURS[colour])
    to_object, to_border = ((image01 - c[:, None, None]).square().sum(0) for c in (wanted, behind))
    return to_object < to_border


def overlap(mask: Bool[Tensor, "32 32"], candidates: Bool[Tensor, "k 32 32"]) -> float:
    """Best intersection over union with candidates that are moved to the mask's middle."""
    at = _middle(mask)
    best = 0.0
    for candidate in candidates:
        shift = (at - _middle(candidate)).round().int().tolist()
        moved = candidate.roll(tuple(shift), dims=(0, 1))
        union = float((moved | mask).sum())
        best = max(best, float((moved & mask).sum()) / max(union, 1.0))
    return best


def _middle(mask: Bool[Tensor, "32 32"]) -> Float[Tensor, "2"]:
    where = mask.nonzero().float()
    return where.mean(0) if len(where) else torch.full((2,), 15.5)


def measure(settings: Settings) -> dict[str, dict[str, float]]:
    """For each shape and view: colour distance, overlap, and how often the shape is read back.

    Every colour is sampled `seeds` times. The colour is the mean over the object's pixels; the
    shape that is read back is the one whose true silhouettes overlap best.
    """
    prior = priors.load(settings.prior, kind="text")
    true = {(s, v): silhouettes(s, v) for s in SHAPES for v in ELEVATIONS}
    generator = torch.Generator().manual_seed(0)
    table, sheet = {}, {}
    for shape, view in tqdm(true, desc="samples"):
        images = sample(prior, shape, view, settings=settings, generator=generator)
        sheet[f"{shape}, {view}"] = enlarge(images[: len(COLOURS)], edge=96)
        shapes = {s: true[s, view] for s in SHAPES}
        table[f"{shape}, {view} view"] = measure_images(images, shape, shapes)
    if settings.pictures is not None:
        save_contact_sheet(settings.pictures, sheet)
    return table


def sample(
    prior: Prior, shape: str, view: str, *, settings: Settings, generator: torch.Generator
) -> Float[Tensor, "n 3 32 32"]:
    """Pictures of a shape in every colour, the colours in turn, `seeds` times."""
    captions = [f"a {colour} {shape}, {view} view" for colour in COLOURS]
    drawn = [
        sample_text(
            prior,
            captions,
            steps=settings.steps,
            text_scale=settings.text_scale,
            solver="ddim",
            generator=generator,
        )
        for _ in range(settings.seeds)
    ]
    return torch.cat(drawn)


def measure_images(
    image01: Float[Tensor, "n 3 32 32"], shape: str, true: dict[str, Bool[Tensor, "k 32 32"]]
) -> dict[str, float]:
    """The measures of one shape's pictures, in which the colours follow each other."""
    distance, overlaps, right = [], [], 0
    for index, image in enumerate(image01):
        colour = list(COLOURS)[index % len(COLOURS)]
        mask = object_mask(image, colour)
        if mask.any():
            mean = image[:, mask].mean(1)
            distance.append(float((mean - torch.tensor(COLOURS[colour])).norm()))
        found = {name: overlap(mask, candidates) for name, candidates in true.items()}
        overlaps.append(found[shape])
        right += max(found, key=lambda name: found[name]) == shape
    return {
        "colour distance": sum(distance) / max(len(distance), 1),
        "overlap": sum(overlaps) / len(image01),
        "read back": right / len(image01),
    }


def card(record: dict[str, Any], table: dict[str, dict[str, float]], *, settings: Settings) -> str:
    """The model card: from what training recorded and what `measure` found."""
    rows = "".join(
        f"| {name} | {' | '.join(f'{value:.2f}' for value in row.values())} |\n"
        for name, row in table.items()
    )
    shapes, colours = ", ".join(SHAPES), ", ".join(COLOURS)
    about = f"""Makes 32x32 images of one object from captions such as "a red cube, side view";
        bundled with csd_nerf so that text-to-3D runs offline on a CPU. In diffusers' `IFPipeline`
        layout: a T5 encoder of two layers and a U-Net on pixels, with v prediction. It knows
        {len(SHAPES)} shapes ({shapes}; also ball and box), {len(COLOURS)} colours ({colours}) and
        four views (front, side, back, overhead), between which embeddings are mixed, and nothing
        else."""
    data = f"""{record["pictures"]} pictures drawn by `csd_nerf.synthetic.objects`, each shown once:
        an object in the middle, its light, size and colour varied a little, before a plain
        gradient. Where the camera stands is told by a mixture of the embeddings of the caption's
        four views. No photograph was used."""
    recipe = f"""`python -m training.tiny_text_prior`, recipe {json.dumps(record["recipe"])}, on
        {record["machine"]}, {record["seconds"]:.0f} s. Captions without view: a quarter; empty:
        12%. Mean loss over the last interval {record["loss"][-1]:.4f} (first:
        {record["loss"][0]:.4f}). {record.get("history", "")}"""
    measures = f"""`python -m training.text_card`: {settings.seeds} samples of every colour,
        {settings.steps} DDIM steps, text scale {settings.text_scale}. Colour distance: RGB distance
        of the object's mean colour to the true one. Overlap: best intersection over union with the
        shape's true silhouettes. Read back: how often no other shape's silhouettes overlap better
        (chance: 0.25)."""
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# tiny-text: a small text-to-image model of simple objects

{_wrapped(about)}

## Data
{_wrapped(data)}

## Recipe
{_wrapped(recipe)}

## What it draws
{_wrapped(measures)}

| caption | colour distance | overlap | read back |
| --- | --- | --- | --- |
{rows}"""


def _wrapped(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), width=100, break_long_words=False, break_on_hyphens=False
    )


def write(settings: Settings) -> None:
    """Measure, and write README.md and evaluation.json into the prior's folder."""
    folder = settings.prior
    record = json.loads((folder / "training.json").read_text())
    table = measure(settings)
    write_text(folder / "README.md", card(record, table, settings=settings))
    write_json(folder / "evaluation.json", table)


if __name__ == "__main__":
    write(tyro.cli(Settings))
