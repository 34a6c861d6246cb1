"""Trains the bundled InstructPix2Pix, `tiny`, in diffusers' layout.

`python -m training.tiny_prior` trains it from nothing. With `--start csd_nerf/assets/tiny` a
finished prior is trained further; its autoencoder and tokenizer stay as they are. The stages
(pairs, autoencoder, encoding, denoiser, export) leave their results in the folder `--work`; the
same command goes on from there after any interruption. `python -m training.card` measures what
came out.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import (
    AutoencoderKL,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from csd_nerf.media.files import folder_written_whole, write_json, written_whole
from csd_nerf.synthetic.scenes import SPLIT_SEEDS
from training import card, data, unet, vae


@dataclass(frozen=True)
class Recipe:
    """What decides the result."""

    work: Path = Path("outputs/tiny_prior")
    """Folder for everything that can be taken up again."""
    start: Path | None = None
    """Folder of a finished prior to train further, without an autoencoder stage; None trains from
    nothing."""
    shards: int = 56
    """Files of training pairs."""
    seeds_a_shard: int = 200
    """Scenes or collages in each; a scene gives up to six pairs."""
    first_seed: int = 0
    """Number of the first scene or collage among the training seeds; further training should see
    others than before."""
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


@dataclass(frozen=True)
class Parts:
    """The models of the prior."""

    autoencoder: AutoencoderKL
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel


def new_parts(seed: int) -> Parts:
    """Untrained models."""
    autoencoder = vae.build(seed)
    tokenizer = unet.build_tokenizer(data.captions())
    text_encoder = unet.build_text_encoder(tokenizer, seed)
    denoiser = unet.build_unet(autoencoder.config["latent_channels"], seed)
    return Parts(autoencoder, tokenizer, text_encoder, denoiser)


def read_parts(folder: Path) -> Parts:
    """The models of a finished prior, in float32."""

    def read(kind: Any, name: str) -> Any:
        # `from_pretrained` would keep the folder's path in the configuration.
        model = kind.from_config(kind.load_config(folder / name))
        weights = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        model.load_state_dict(weights)
        return model

    return Parts(
        read(AutoencoderKL, "vae"),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32),
        read(UNet2DConditionModel, "unet"),
    )


def encode_shards(
    autoencoder: AutoencoderKL, shards: list[data.Shard], path: Path, device: torch.device
) -> list[unet.LatentShard]:
    """Encode all pairs once, and keep the latents."""
    if not path.exists():
        autoencoder.to(device).eval()
        rows = [
            {
                "source": vae.encode(autoencoder, s.source, device).half().cpu(),
                "edited": vae.encode(autoencoder, s.edited, device).half().cpu(),
                "asked": s.asked,
            }
            for s in shards
        ]
        with written_whole(path) as partial:
            torch.save(rows, partial)
    rows = torch.load(path, weights_only=True)
    return [unet.LatentShard(r["source"], r["edited"], r["asked"]) for r in rows]


def scaling_factor(latents: list[unet.LatentShard]) -> float:
    """1 over the latents' standard deviation."""
    return 1 / float(torch.cat([s.edited[:64].flatten() for s in latents]).float().std())


def export(output: Path, parts: Parts, scale: float) -> None:
    """Write the pipeline folder in half precision, under a temporary name first."""
    parts.autoencoder.register_to_config(scaling_factor=scale)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=parts.autoencoder.cpu().half(),
        text_encoder=parts.text_encoder.cpu().half(),
        tokenizer=parts.tokenizer,
        unet=parts.unet.cpu().half(),
        scheduler=unet.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with folder_written_whole(output, marker="model_index.json") as partial:
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
        first_seed=recipe.first_seed,
    )
    shards = [data.read_shard(path) for path in paths]
    parts = new_parts(recipe.seed) if recipe.start is None else read_parts(recipe.start)
    before = (
        None if recipe.start is None else json.loads((recipe.start / "training.json").read_text())
    )
    seconds, losses = {}, {}
    if recipe.start is None:
        course = vae.train(
            parts.autoencoder,
            shards,
            steps=recipe.vae_steps,
            batch=recipe.vae_batch,
            learning_rate=recipe.vae_learning_rate,
            seed=recipe.seed,
            checkpoint=recipe.work / "vae.pt",
            device=device,
        )
        seconds["autoencoder"], losses["vae_loss"] = course.seconds, course.losses
    latents = encode_shards(parts.autoencoder, shards, recipe.work / "latents.pt", device)
    known = parts.autoencoder.config["scaling_factor"]
    scale = scaling_factor(latents) if recipe.start is None else known
    course = unet.train(
        parts.unet,
        parts.text_encoder,
        parts.tokenizer,
        latents,
        scaling_factor=scale,
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        checkpoint=recipe.work / "denoiser.pt",
        device=device,
    )
    seconds["denoiser"], losses["denoiser_loss"] = course.seconds, course.losses
    export(recipe.output, parts, scale)
    left_out = ["work", "start", "output"]
    if recipe.start is not None:
        left_out += ["vae_steps", "vae_batch", "vae_learning_rate"]
    first = SPLIT_SEEDS["train"].start + recipe.first_seed
    record = {
        "recipe": {k: v for k, v in dataclasses.asdict(recipe).items() if k not in left_out},
        "train_seeds": [first, first + recipe.shards * recipe.seeds_a_shard],
        "pairs": sum(len(s.asked) for s in shards),
        "seconds": seconds,
        "machine": f"{device.type}, {torch.get_num_threads()} threads",
        **losses,
    }
    if before is not None:
        record["before"] = before
    write_json(recipe.output / "training.json", record)
    card.write(recipe.output, record, evaluation=None)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
