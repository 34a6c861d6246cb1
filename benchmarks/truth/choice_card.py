"""Decides whether a prior has learnt instructions with several right answers.

Run it as `python -m benchmarks.truth.choice_card --prior FOLDER`. Plain sampling edits each image
of some sets (`benchmarks.worlds.choices`) from a noise of its own, asked for the choice, and from
the same noise asked by name for the answer that it chose. The prior is accepted if, on every split,

- images of a set disagree: at most `MOST_AGREEING` of them have the commonest answer;
- almost all images change, and are as near to an answer as if it had been asked by name;
- the nearest answer is met as well as when it is asked by name;
- painting hits its object, and leaves the rest, as well as when the colour is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import tyro
from tqdm import tqdm

from benchmarks.truth.choice_scores import Judged, masked_error
from benchmarks.worlds.choices import ChoiceSet, Medium, draw_choice_set
from csd_nerf import priors
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_json
from csd_nerf.priors.sampling import sample_edit
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.scenes import Split

MOST_AGREEING = 0.60
"""Largest mean share of images with the commonest answer."""
LEAST_CHANGED = 0.90
"""Smallest mean share of images that have an answer."""
MOST_FARTHER = 0.1
"""By how much the mean distance to the nearest answer, in units of the answers' distance, may be
larger than for edits asked by name."""
MOST_LOST = 0.5
"""Largest loss against edits asked by name, in dB."""
MEDIA: tuple[Medium, ...] = ("views", "video")
COLUMNS = (
    Column("agree", "images with the commonest answer, %", 100, 0),
    Column("changed", "changed, %", 100, 0),
    Column("distance", "distance to the nearest answer", digits=2),
    Column("named_distance", "by name", digits=2),
    Column("psnr", "PSNR to the nearest answer"),
    Column("named_psnr", "by name"),
    Column("inside", "PSNR in the target"),
    Column("named_inside", "by name"),
    Column("outside", "PSNR outside"),
    Column("named_outside", "by name"),
)


@dataclass(frozen=True)
class Settings:
    """How the prior is examined."""

    prior: Path = Path("csd_nerf/assets/tiny")
    """Folder of the prior."""
    splits: tuple[Split, ...] = ("validation", "benchmark")
    """Splits of the sets' seeds."""
    sets: int = 8
    """Number of sets of each medium; paint, floor, sky and look take turns."""
    seeds: int = 2
    """Number of samples of each image."""
    steps: int = 15
    """Sampling steps."""
    text_scale: float = 1.5
    """w_y of plain sampling."""
    image_scale: float = 1.5
    """w_s of plain sampling."""
    output: Path | None = None
    """File for all rows, .json; none is written if not given."""


def examine(prior: priors.Prior, given: ChoiceSet, settings: Settings, *, seed: int) -> Row:
    """Sample a set, asked for the choice and by name, and compare; keys as in `COLUMNS`."""
    source01 = given.source01
    count, height, width = given.source.shape[:3]
    shape = (count, prior.latent_channels, height // prior.cell_size, width // prior.cell_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def sample(words: str | Sequence[str]) -> torch.Tensor:
        return sample_edit(
            prior,
            source01,
            words,
            text_scale=settings.text_scale,
            image_scale=settings.image_scale,
            steps=settings.steps,
            noise=noise,
        )

    chosen01 = sample(given.choice.instructions[0])
    judged = Judged(chosen01, given.truths01, source01, given.region)
    errors = (chosen01 - given.truths01).square().mean((2, 3, 4))
    nearest = errors.argmin(0)
    named01 = sample([all_edits()[given.answers[k]].instructions[0] for k in nearest.tolist()])
    truth01 = given.truths01[nearest, torch.arange(count)]
    row: Row = {"input": given.name, "kind": given.choice.kind, "seed": seed}
    row |= {"agree": judged.agreement(), "changed": judged.changed()}
    named = Judged(named01, given.truths01, source01, given.region)
    for prefix, image01, one in (("", chosen01, judged), ("named_", named01, named)):
        distances = one.distances()
        row[f"{prefix}distance"] = float(distances.mean()) if len(distances) else None
        row |= {
            f"{prefix}{name}": _psnr(image01, truth01, mask)
            for name, mask in (
                ("psnr", torch.ones_like(given.region)),
                ("inside", given.region),
                ("outside", ~given.region),
            )
        }
    return row


def verdicts(rows: Sequence[Row]) -> dict[str, bool]:
    """Each criterion with its figures, and whether these rows of one split meet it."""

    def mean(key: str, kind: str | None = None) -> float:
        values = [row[key] for row in rows if kind in (None, row["kind"])]
        known = [value for value in values if value is not None]
        return fmean(known) if known else math.nan

    def gained(key: str, kind: str | None = None) -> tuple[str, float]:
        by_name = mean(f"named_{key}", kind)
        return f"{mean(key, kind):.1f} dB, by name {by_name:.1f}", mean(key, kind) - by_name

    found = {
        f"images disagree: {mean('agree'):.2f} have the commonest answer, at most "
        f"{MOST_AGREEING}": mean("agree") <= MOST_AGREEING,
        f"images change: {mean('changed'):.2f}, at least {LEAST_CHANGED}": mean("changed")
        >= LEAST_CHANGED,
        f"each is near an answer: distance {mean('distance'):.2f}, by name "
        f"{mean('named_distance'):.2f}, at most {MOST_FARTHER} more": mean("distance")
        <= mean("named_distance") + MOST_FARTHER,
    }
    for what, key, kind in (
        ("the nearest answer is met", "psnr", None),
        ("painting hits its object", "inside", "recolour"),
        ("painting leaves the rest", "outside", "recolour"),
    ):
        text, gain = gained(key, kind)
        found[f"{what}: {text}, at most {MOST_LOST} less"] = gain >= -MOST_LOST
    return found


def report(split: str, rows: Sequence[Row]) -> str:
    """The table of a split, a line for each kind, and a line for each criterion."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    table = Table(rows, kinds, COLUMNS, by="kind", count="samples").markdown()
    lines = [f"{'pass' if met else 'FAIL'}  {text}" for text, met in verdicts(rows).items()]
    return "\n".join([f"{split}\n", table, *lines, ""])


def main(settings: Settings) -> None:
    """Examine the prior on each split; exits with code 1 if a criterion is not met."""
    prior = priors.load(settings.prior)
    found: dict[str, list[Row]] = {}
    for split in settings.splits:
        places: list[tuple[Medium, int]] = [
            (medium, number) for number in range(settings.sets) for medium in MEDIA
        ]
        found[split] = []
        for medium, number in tqdm(places, desc=split):
            given = draw_choice_set(medium, number, split)
            found[split] += [
                examine(prior, given, settings, seed=seed) for seed in range(settings.seeds)
            ]
        print(report(split, found[split]), flush=True)
    if settings.output is not None:
        write_json(settings.output, found)
    if not all(met for rows in found.values() for met in verdicts(rows).values()):
        raise SystemExit(1)


def _psnr(image01: torch.Tensor, truth01: torch.Tensor, mask: torch.Tensor) -> float | None:
    """Mean PSNR over a mask; None if an image has nothing in it."""
    if not mask.any(2).any(1).all():
        return None
    return float((-10 * masked_error(image01, truth01, mask).log10()).mean())


if __name__ == "__main__":
    main(tyro.cli(Settings))
