"""Trains the bundled InstructPix2Pix, `tiny`, from nothing, in diffusers' layout.

Run it as `python -m training.tiny_prior --work outputs/tiny_prior`. The stages (pairs,
autoencoder, encoding, denoiser, export) leave their results in the work folder; the same command
goes on from there after any interruption. `python -m training.card` measures what came out.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline

from csd_nerf.media.files import folder_written_whole, write_json, written_whole
from csd_nerf.synthetic.scenes import SPLIT_SEEDS
from training import card, data, unet, vae


@dataclass(frozen=True)
class Recipe:
    """What decides the result."""

    work: Path = Path("outputs/tiny_prior")
    """Folder for everything that can be taken up again."""
    shards: int = 56
    """Files of training pairs."""
    seeds_a_shard: int = 200
    """Scenes or collages in each; a scene gives up to three pairs."""
    vae_steps: int = 2800
    vae_batch: int = 8
    vae_learning_rate: float = 1e-3
    steps: int = 3600
    """Of the denoiser."""
    batch: int = 24
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    workers: int = os.cpu_count() or 1
    """Processes that draw pairs."""
    output: Path = Path("csd_nerf/assets/tiny")
    """Where the finished model goes."""


def encode_shards(
    autoencoder: AutoencoderKL, shards: list[data.Shard], path: Path, device: torch.device
) -> tuple[list[unet.LatentShard], float]:
    """Encode once and keep; also the scaling factor, 1 over the latents' standard deviation."""
    if not path.exists():
        rows = [
            {
                "source": vae.encode(autoencoder, s.source, device).half().cpu(),
                "edited": vae.encode(autoencoder, s.edited, device).half().cpu(),
                "names": s.edit_names,
            }
            for s in shards
        ]
        with written_whole(path) as partial:
            torch.save(rows, partial)
    rows = torch.load(path, weights_only=True)
    scale = 1 / float(torch.cat([r["edited"][:64].flatten() for r in rows]).float().std())
    return [unet.LatentShard(r["source"], r["edited"], r["names"]) for r in rows], scale


def export(
    output: Path, autoencoder: AutoencoderKL, denoiser, text_encoder, tokenizer, scale: float
) -> None:
    """Write the pipeline folder in half precision, under a temporary name first."""
    autoencoder.register_to_config(scaling_factor=scale)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder.cpu().half(),
        text_encoder=text_encoder.cpu().half(),
        tokenizer=tokenizer,
        unet=denoiser.cpu().half(),
        scheduler=unet.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with folder_written_whole(output) as partial:
        pipeline.save_pretrained(partial)


def _check_work_folder(recipe: Recipe) -> None:
    """Refuse results of another recipe; only the length of the training may change."""
    recipe.work.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    for free in ("work", "output", "steps", "device", "workers"):
        del wanted[free]
    path = recipe.work / "recipe.json"
    if path.exists() and (found := json.loads(path.read_text())) != wanted:
        different = [name for name in wanted if found.get(name) != wanted[name]]
        raise ValueError(
            f"--work must be a folder of the same recipe, but {recipe.work} differs in "
            f"{', '.join(different)}; name another folder."
        )
    write_json(path, wanted)


def main(recipe: Recipe) -> None:
    """Run every stage that is not done yet."""
    device = torch.device(recipe.device)
    _check_work_folder(recipe)
    paths = data.make_shards(
        recipe.work / "pairs",
        shards=recipe.shards,
        seeds_a_shard=recipe.seeds_a_shard,
        workers=recipe.workers,
    )
    shards = [data.read_shard(path) for path in paths]
    autoencoder = vae.build(recipe.seed)
    vae_course = vae.train(
        autoencoder,
        shards,
        steps=recipe.vae_steps,
        batch=recipe.vae_batch,
        learning_rate=recipe.vae_learning_rate,
        seed=recipe.seed,
        checkpoint=recipe.work / "vae.pt",
        device=device,
    )
    latents, scale = encode_shards(autoencoder, shards, recipe.work / "latents.pt", device)
    tokenizer = unet.build_tokenizer(data.captions())
    text_encoder = unet.build_text_encoder(tokenizer, recipe.seed)
    denoiser = unet.build_unet(autoencoder.config["latent_channels"], recipe.seed)
    course = unet.train(
        denoiser,
        text_encoder,
        tokenizer,
        latents,
        scaling_factor=scale,
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        checkpoint=recipe.work / "denoiser.pt",
        device=device,
    )
    export(recipe.output, autoencoder, denoiser, text_encoder, tokenizer, scale)
    recipe_values = dataclasses.asdict(recipe)
    record = {
        "recipe": {k: v for k, v in recipe_values.items() if k not in ("work", "output")},
        "train_seeds": [SPLIT_SEEDS["train"].start, recipe.shards * recipe.seeds_a_shard],
        "pairs": sum(len(s.edit_names) for s in shards),
        "seconds": {"autoencoder": vae_course.seconds, "denoiser": course.seconds},
        "machine": f"{device.type}, {torch.get_num_threads()} threads",
        "vae_loss": vae_course.losses,
        "denoiser_loss": course.losses,
    }
    write_json(recipe.output / "training.json", record)
    card.write(recipe.output, record, evaluation=None)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
