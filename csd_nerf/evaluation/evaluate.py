"""The core of `csd-nerf evaluate`: several edits of one source, measured side by side."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation.measures import COLUMNS, Networks, Run, measure
from csd_nerf.evaluation.media import Media, open_media, read_facts
from csd_nerf.evaluation.plots import save_bars
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import check_writable, write_json, write_text
from csd_nerf.media.frames import FRAME_SUFFIXES, natural_order
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import to_01
from csd_nerf.priors.devices import find_device
from csd_nerf.synthetic.edits import Edit, find_edit

if TYPE_CHECKING:
    from csd_nerf.evaluation.clip import Clip
    from csd_nerf.evaluation.similarity import Lpips

_PACKAGES = ("csd_nerf", "torch", "torchvision", "scikit-image", "lpips", "open_clip_torch")
_BATCH = 16
"""Images that a network sees at once."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is measured, and by which networks."""

    source: Path
    """Picture, video, folder of frames, or folder with a transforms.json."""
    edited: tuple[str, ...]
    """Edits of it, each as PATH or NAME=PATH."""
    truth: Path | None = None
    """The true edit."""
    look: str | None = None
    """A look that is the true edit, by name or wording."""
    source_caption: str | None = None
    """What the source shows."""
    edited_caption: str | None = None
    """What the edit should show."""
    reference: Path | None = None
    """Folder of pictures for FID."""
    depth_unit: float = 1e-3
    """Poses' units a step of nerfstudio's depth files."""
    clip: str = "ViT-bigG-14"
    """An OpenCLIP model or a local folder of one."""
    inception: Path | None = None
    """Weights of FID's network; None means its usual download."""
    device: str = "cpu"

    def __post_init__(self):
        """Check what can be checked without reading anything."""
        if not self.edited:
            raise ValueError("--edited needs one result or more, as PATH or NAME=PATH, got none.")
        names = [name for name, _ in self.runs]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Edits need names of their own, got {', '.join(names)}; give them as NAME=PATH."
            )
        if self.truth is not None and self.look is not None:
            raise ValueError("The true edit is --truth or --look, got both; leave one out.")
        if (self.source_caption is None) != (self.edited_caption is None):
            raise ValueError(
                "CLIP direction needs both --source-caption and --edited-caption, got one; add "
                "the other."
            )
        if not 0 < self.depth_unit < math.inf:
            raise ValueError(f"--depth-unit must be positive, got {self.depth_unit}.")

    @property
    def runs(self) -> list[tuple[str, Path]]:
        """Names and paths of the edits; without a name an edit is called like its file."""
        pairs = []
        for text in self.edited:
            name, equals, path = text.partition("=")
            # A path may hold a = of its own.
            if not equals or not name or Path(text).exists():
                pairs.append((Path(text).name, Path(text)))
            else:
                pairs.append((name, Path(path)))
        return pairs


def run_evaluate(output: Path, settings: EvaluateSettings, *, note: Callable[[str], None]) -> str:
    """Measure edits and write results.json, and beside it .csv, .md, .tex and .png.

    Args:
        output: The JSON file; the others are named like it. The plot shows the measures that
            say which edit is better.
        settings: What to measure.
        note: Told, in a line each, which measures are left out for weights that are missing or
            for sizes that differ.

    Returns:
        The table in markdown.

    Raises:
        ValueError: If an option is wrong, or the inputs don't fit each other.
        FileNotFoundError: If an input is missing.
    """
    if output.suffix != ".json":
        raise ValueError(f"--output must end in .json, got {output}; rename it.")
    check_writable(output)
    results = evaluate(settings, note=note)
    rows = [{"run": name} | run["values"] for name, run in results["runs"].items()]
    columns = [column for column in COLUMNS if any(column.key in row for row in rows)]
    names = [row["run"] for row in rows]
    table = Table(rows, names, columns, by="run", count=None)
    judged = [column for column in columns if column.better]
    if judged:
        panels = [(column.head, [(_scaled(row, column), 0.0) for row in rows]) for column in judged]
        save_bars(output.with_suffix(".png"), names, panels)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        write_text(output.with_suffix(suffix), text)
    write_json(output, results)
    return table.markdown()


def _scaled(row: Row, column: Column) -> float:
    return row.get(column.key, math.nan) * column.scale


def evaluate(settings: EvaluateSettings, *, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure edits; see `run_evaluate`.

    Returns:
        `settings`, `versions`, and `runs`: for each edit's name its path, number of frames, size
        (width, height), the `values` by the keys of `COLUMNS`, and in `left_out` the measures
        that could not be made, with the reasons.
    """
    find_device(settings.device)
    look = None if settings.look is None else _find_look(settings.look)
    runs = _open_runs(settings, look)
    networks = _load_networks(settings, runs, note)
    results = {}
    for run, (name, path) in zip(runs, settings.runs, strict=True):
        values, left_out = measure(run, networks)
        for reason in dict.fromkeys(left_out.values()):
            if "equal sizes" in reason:
                measures = ", ".join(key for key in left_out if left_out[key] == reason)
                note(f"{name}: {measures} left out: {reason}")
        results[name] = {
            "edited": str(path),
            "frames": run.edited.count,
            "size": list(run.edited.size[::-1]),
            "values": values,
            "left_out": left_out,
        }
    return {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=str)),
        "versions": _versions(),
        "runs": results,
    }


def _find_look(text: str) -> Edit:
    edit = find_edit(text)
    if edit.kind != "look":
        raise ValueError(f"--look needs a look, which applies to any picture, got {edit.name!r}.")
    return edit


def _open_runs(settings: EvaluateSettings, look: Edit | None) -> list[Run]:
    """Open all inputs and check that they have as many frames.

    An edit of some frames of a video, as its record tells, is compared with these.
    """

    @functools.cache
    def source(frames: str) -> Media:
        return open_media(settings.source, frames=frames, depth_unit=settings.depth_unit)

    runs = []
    for name, path in settings.runs:
        facts, edited = read_facts(path), open_media(path)
        frames = str(facts.get("frames", "all"))
        truth = look if settings.truth is None else open_media(settings.truth)
        run = Run(name, source(frames), edited, truth, facts)
        _check_count("its source", run.source.count, edited.count, path)
        if isinstance(truth, Media):
            _check_count("the truth", truth.count, edited.count, path)
        runs.append(run)
    return runs


def _check_count(what: str, expected: int, count: int, path: Path) -> None:
    if count != expected:
        raise ValueError(
            f"An edit needs as many frames as {what}, {expected}, got {count} in {path}; give the "
            "frames that belong together."
        )


def _load_networks(
    settings: EvaluateSettings, runs: list[Run], note: Callable[[str], None]
) -> Networks:
    missing: dict[str, str] = {}
    device = settings.device

    def load(name: str, loader: Callable[[], _T]) -> _T | None:
        try:
            return loader()
        except (OSError, ImportError) as error:
            missing[name] = " ".join(str(error).split())
            note(f"{_MEASURES[name]} left out: {missing[name]}")
            return None

    lpips = clip = fid = texts = None
    if any(run.truth is not None or run.edited.count > 1 for run in runs):
        lpips = load("lpips", lambda: _load_lpips(device))
    else:
        missing["lpips"] = "it needs --truth or --look, or two frames or more"
    clip = load("clip", lambda: _load_clip(settings.clip, device))
    if clip is not None and settings.source_caption and settings.edited_caption:
        texts = clip.text_features([settings.source_caption, settings.edited_caption])
    if settings.reference is None:
        missing["fid"] = "it needs --reference"
    else:
        reference = settings.reference
        fid = load("fid", lambda: _fid_to(reference, settings.inception, device))
    return Networks(lpips, clip, texts, fid, missing, device=device)


_MEASURES = {
    "lpips": "lpips_source, lpips_edited and frame_lpips are",
    "clip": "clip_direction, clip_text, clip_source and clip_consistency are",
    "fid": "fid is",
}


def _load_lpips(device: str) -> Lpips:
    from csd_nerf.evaluation.similarity import load_lpips

    return load_lpips(device=device)


def _load_clip(name: str, device: str) -> Clip:
    from csd_nerf.evaluation.clip import load_clip

    return load_clip(name, device=device)


def _fid_to(folder: Path, weights: Path | None, device: str) -> Callable[[Media], float]:
    """FID of frames to the pictures of a folder, whose features are computed now."""
    pictures = _pictures(folder)
    network = _load_inception(weights, device)

    def features(images: Iterable[Float[Tensor, "1 3 h w"]]) -> Float[Tensor, "n d"]:
        return torch.cat([network(batch.to(device)).cpu() for batch in _batches(images)])

    reference = features(to_01(read_image(path)[0][None]) for path in pictures)

    def distance(media: Media) -> float:
        from csd_nerf.evaluation.fid import frechet_distance

        return frechet_distance(features(media), reference)

    return distance


def _load_inception(
    weights: Path | None, device: str
) -> Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n d"]]:
    from csd_nerf.evaluation.fid import load_inception

    return load_inception(weights, device)


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, which may differ in size."""
    if not folder.is_dir():
        raise ValueError(f"--reference must be a folder of pictures, got {folder}.")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES]
    if len(paths) < 2:
        raise ValueError(f"--reference needs two pictures or more, got {len(paths)} in {folder}.")
    return sorted(paths, key=lambda path: natural_order(path.name))


def _batches(
    images: Iterable[Float[Tensor, "1 3 h w"]],
) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Neighbours of one size together."""
    for _, equal in itertools.groupby(images, key=lambda image: image.shape):
        while batch := [*itertools.islice(equal, _BATCH)]:
            yield torch.cat(batch)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
