"""Measures a trained prior on held-out scenes in held-out words, and writes its model card.

Run it as `python -m training.card --prior csd_nerf/assets/tiny`.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import torch
import tyro
from tqdm import tqdm

from csd_nerf import priors
from csd_nerf.bundled import TUNED_RUN
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit_images
from csd_nerf.evaluation.similarity import psnr
from csd_nerf.media.files import write_json, write_text
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import resize, to_01
from csd_nerf.media.sheets import save_contact_sheet
from csd_nerf.priors.sampling import sample_edit
from csd_nerf.synthetic.cameras import Cameras, orbit_cameras
from csd_nerf.synthetic.dataset import render_views
from csd_nerf.synthetic.edits import Edit, all_edits, edits_of, render_edit
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, Split, draw_scenes

PHOTOGRAPH_AREA = 64 * 64
COLUMNS = ("source", "plain", "csd", "plain unseen", "csd unseen", "ceiling")
Row = dict[str, float | str]


@dataclass(frozen=True)
class Settings:
    """How the prior is measured."""

    prior: Path = Path("csd_nerf/assets/tiny")
    split: Split = "benchmark"
    """Tune on `validation`, report on `benchmark`."""
    views: int = 3
    """Views of one scene that are edited together."""
    edits: list[str] = field(default_factory=list)
    """Names of the edits to measure; without names all, but one recolouring in four."""
    photographs: list[Path] = field(default_factory=list)
    """Photographs that the looks are measured on as well."""
    sample_steps: int = 15
    sample_text_scale: float = 1.5
    sample_image_scale: float = 1.5
    edit: EditSettings = field(default_factory=lambda: EditSettings(**TUNED_RUN))
    output: Path | None = None
    """Folder for evaluation.json and pictures; the prior's own if not given."""
    pictures: Path | None = None
    """Folder for a contact sheet of each edit; none are made if not given."""


def find_scene(edit: Edit, split: Split, cameras: Cameras, *, skip: int) -> Scenes:
    """A scene of the split in which the edit changes something in every view."""
    count = len(cameras.focal)
    for seed in SPLIT_SEEDS[split][skip : skip + 400]:
        scenes = draw_scenes([seed])
        if all(edit.applies(scenes.repeat(count), render_views(scenes, cameras, size=32))):
            return scenes
    raise ValueError(f"No scene of {split} shows what {edit.name!r} names in all views.")


def _arc(views: int) -> Cameras:
    """Neighbouring views, low enough that each sees some sky."""
    azimuth = torch.deg2rad(torch.linspace(0, 60, views))
    return orbit_cameras(azimuth, torch.full((views,), math.radians(14)))


def _chosen(names: list[str]) -> list[Edit]:
    """The edits of these names; without names all but three quarters of the recolourings."""
    if names:
        return [all_edits()[name] for name in names]
    recolourings = edits_of(["recolour"])[::4]
    return [*edits_of(["look", "weather", "floor", "sky"]), *recolourings]


def measure(
    prior: priors.Prior, edit: Edit, source01: torch.Tensor, truth01: torch.Tensor, s: Settings
) -> tuple[Row, dict[str, torch.Tensor]]:
    """PSNR to the truth of the source, of plain sampling and of CSD-Edit.

    Each is asked for in the first of the wordings that training used, and in the unseen one.
    """
    images = {"source": source01}
    for suffix, words in (("", edit.instructions[0]), (" unseen", edit.unseen_instruction)):
        images["plain" + suffix] = sample_edit(
            prior,
            source01,
            words,
            text_scale=s.sample_text_scale,
            image_scale=s.sample_image_scale,
            steps=s.sample_steps,
            generator=torch.Generator().manual_seed(0),
        )
        result = edit_images(
            prior,
            source01,
            prompt=words,
            settings=s.edit,
            generator=torch.Generator().manual_seed(0),
        )
        images["csd" + suffix] = result.image01
    row: Row = {"edit": edit.name, "kind": edit.kind}
    row |= {name: psnr(image01, truth01) for name, image01 in images.items()}
    row["ceiling"] = psnr(prior.decode(prior.encode(truth01)), truth01)
    return row, images | {"truth": truth01}


def read_photographs(paths: list[Path], multiple: int) -> list[torch.Tensor]:
    """Photographs at about the prior's area, with their aspect."""
    images = []
    for path in paths:
        image, _ = read_image(path)
        edges = image.shape[:2]
        scale = (PHOTOGRAPH_AREA / (edges[0] * edges[1])) ** 0.5
        height, width = (multiple * max(1, round(e * scale / multiple)) for e in edges)
        images.append(to_01(resize(image, (height, width), by="box")[None]))
    return images


def evaluate(s: Settings) -> dict:
    """Measure everything that the settings ask for."""
    prior = priors.load(s.prior)
    cameras = _arc(s.views)
    rows: list[Row] = []
    for position, edit in enumerate(tqdm(_chosen(s.edits), desc="edits")):
        scenes = find_scene(edit, s.split, cameras, skip=7 * position)
        source01 = render_views(scenes, cameras, size=64).image01
        size = {"height": 64, "width": 64}
        truth01 = render_edit(edit, scenes.repeat(s.views), cameras, **size)
        row, images = measure(prior, edit, source01, truth01, s)
        rows.append(row | {"on": "scene"})
        if s.pictures is not None:
            s.pictures.mkdir(parents=True, exist_ok=True)
            save_contact_sheet(s.pictures / f"{edit.name}.png", images)
        if edit.kind != "look":
            continue
        for photograph in read_photographs(s.photographs, prior.size_multiple):
            row, images = measure(prior, edit, photograph, edit.edit_image(photograph), s)
            rows.append(row | {"on": "photograph"})
    return {"settings": _record(s), "rows": rows}


def _record(s: Settings) -> dict:
    """What decides the numbers, without the folders of whoever measured them."""
    settings = json.loads(json.dumps(asdict(s), default=str))
    for folder in ("prior", "output", "pictures"):
        del settings[folder]
    return settings | {"photographs": [path.name for path in s.photographs]}


def summary(rows: list[Row]) -> list[tuple[str, int, dict[str, float]]]:
    """Means by kind of edit; looks on photographs apart."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        name = str(row["kind"]) + (" on photographs" if row["on"] == "photograph" else "")
        groups[name].append(row)
    return [
        (name, len(group), {c: fmean(float(r[c]) for r in group) for c in COLUMNS})
        for name, group in groups.items()
    ]


def table(evaluation: dict) -> str:
    """Markdown: means by kind, then every edit."""
    head = f"| edit | n | {' | '.join(COLUMNS)} |\n{'| --- ' * (2 + len(COLUMNS))}|\n"

    def line(name: str, count: int, v: dict[str, float]) -> str:
        cells = " | ".join(f"{v[c]:.1f}" for c in COLUMNS)
        return f"| {name} | {count} | {cells} |\n"

    lines = [line(f"**{name}**", count, v) for name, count, v in summary(evaluation["rows"])]
    single: dict[str, list[Row]] = defaultdict(list)
    for row in evaluation["rows"]:
        suffix = " (photographs)" if row["on"] == "photograph" else ""
        single[f"{row['edit']}{suffix}"].append(row)
    for name, group in single.items():
        lines.append(line(name, len(group), summary(group)[0][2]))
    return head + "".join(lines)


def _trainings(record: dict) -> list[dict]:
    """The records of all trainings of a prior, the first first."""
    before = record.get("before")
    return [record] if before is None else [*_trainings(before), record]


def _recipe(record: dict) -> str:
    """Recipe and course of one training, for the card."""
    seconds = ", ".join(f"{k} {v:.0f} s" for k, v in record["seconds"].items())
    losses = [f"denoiser {record['denoiser_loss'][-1]:.4f}"]
    if "vae_loss" in record:
        losses.insert(0, f"autoencoder {record['vae_loss'][-1]:.4f}")
    how = "further, `--start`, " if "before" in record else ""
    first, last = record["train_seeds"]
    text = (
        f"`python -m training.tiny_prior`, {how}{record['pairs']} pairs of seeds {first} to "
        f"{last - 1}, recipe {json.dumps(record['recipe'])}. Time by stage on "
        f"{record['machine']}: {seconds}. Mean loss over the last interval: {', '.join(losses)} "
        f"(denoiser, first interval: {record['denoiser_loss'][0]:.4f}). {record.get('history', '')}"
    )
    return textwrap.fill(text.strip(), 100, break_long_words=False, break_on_hyphens=False)


def write(folder: Path, record: dict, evaluation: dict | None) -> None:
    """The model card of a finished prior, from what training and evaluation recorded."""
    recipes = "\n\n".join(_recipe(one) for one in _trainings(record))
    measured = "Not measured yet.\n"
    if evaluation:
        settings = json.dumps(evaluation["settings"])
        measured = f"{table(evaluation)}\nSettings: {settings}\n"
    text = f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-image
---

# tiny: a small InstructPix2Pix for scenes of simple shapes

Edits 64x64 images by an instruction; bundled with csd_nerf so that everything runs offline on a
CPU. In diffusers' `StableDiffusionInstructPix2PixPipeline` layout. It knows the edits below and
nothing else: it is no substitute for a model trained on photographs.

## Data
Pairs drawn by `csd_nerf.synthetic`: scenes of one to three objects, and collages that have the
statistics of photographs, each with its exact edit and an instruction. Half of the pairs ask for a
choice, such as "change the floor", which has several right answers; which of them is the result
depends on the view (`csd_nerf/synthetic/choices.py`). No photograph was used.

## Recipe
Autoencoder with down-factor 4 and 8 channels; U-Net on 16x16 latents with v prediction, trained
together with a two-layer CLIP text encoder; dropout of text, image and both for guidance.

{recipes}

## Distance to the true edit
PSNR in dB on held-out scenes, some neighbouring views of each (`python -m training.card`).
Source: nothing done. Plain: InstructPix2Pix sampling, each view for itself. Csd: CSD-Edit, the
views together. Unseen: asked for in words that training never used. Ceiling: the true edit through
the autoencoder.

{measured}"""
    write_text(folder / "README.md", text)


def main(settings: Settings) -> None:
    """Measure and rewrite the card."""
    evaluation = evaluate(settings)
    print(table(evaluation))
    output = settings.output or settings.prior
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "evaluation.json", evaluation)
    record = settings.prior / "training.json"
    if settings.output is None and record.exists():
        write(settings.prior, json.loads(record.read_text()), evaluation)


if __name__ == "__main__":
    main(tyro.cli(Settings))
