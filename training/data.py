"""The training images: shards of pairs on disk, made once by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from csd_nerf.media.files import written_whole
from csd_nerf.media.pixels import to_bytes
from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import all_edits
from csd_nerf.synthetic.scenes import SPLIT_SEEDS
from training.pairs import draw_pairs, stack_pairs

SIZES = ((64, 64), (64, 64), (64, 64), (64, 64), (48, 80), (80, 48))
"""Height and width of the shards in turn: mostly the model's own, some wide, some tall."""


@dataclass(frozen=True)
class Shard:
    """Pairs of one size as 8-bit arrays of shape (n, 3, h, w)."""

    source: np.ndarray
    edited: np.ndarray
    asked: list[str]
    """Name of the edit or choice that each pair's instruction asks for."""


def write_shard(path: Path, index: int, seeds_a_shard: int, first_seed: int) -> Path:
    """Draw the pairs of one shard, unless it is there already."""
    if path.exists():
        return path
    torch.set_num_threads(1)
    height, width = SIZES[index % len(SIZES)]
    first = SPLIT_SEEDS["train"].start + first_seed + index * seeds_a_shard
    pairs = [
        pair
        for seed in range(first, first + seeds_a_shard)
        for pair in draw_pairs(seed, height=height, width=width)
    ]
    source, edited = (to_bytes(x).movedim(-1, -3).numpy() for x in stack_pairs(pairs))
    names = np.array([pair.asked.name for pair in pairs])
    with written_whole(path) as partial:
        np.savez(partial, source=source, edited=edited, names=names)
    return path


def make_shards(
    folder: Path, *, shards: int, seeds_a_shard: int, workers: int, first_seed: int = 0
) -> list[Path]:
    """Write the shards that are missing, in parallel, and name all of them in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05d}.npz" for index in range(shards)]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(write_shard, p, i, seeds_a_shard, first_seed) for i, p in enumerate(paths)
        ]
        for job in tqdm(jobs, desc="pairs", unit="shard"):
            job.result()
    return paths


def read_shard(path: Path) -> Shard:
    """One shard from disk."""
    with np.load(path) as arrays:
        return Shard(arrays["source"], arrays["edited"], arrays["names"].tolist())


def image01(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """8-bit images to [0, 1]."""
    return torch.from_numpy(array).to(device).float() / 255


def captions() -> Iterator[str]:
    """Every wording that training uses; the unseen ones stay unseen by the tokenizer too."""
    for asked in (*all_edits().values(), *all_choices().values()):
        yield from asked.instructions
