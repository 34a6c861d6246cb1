"""Trains the bundled text-to-image prior from nothing, in diffusers' IFPipeline layout.

Run it as `python -m training.tiny_text_prior --work outputs/tiny_text_prior`; the same command
goes on after any interruption. A pixel-space U-Net and a T5 encoder are trained together on single
objects of `csd_nerf.synthetic.objects`, drawn anew at every step. How a camera stands is said as
csd-dreamfusion says it, by a mixture of the embeddings of a caption's views: with whole views alone
a cube seen across its edge and one seen face on would have the same text.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from csd_nerf.media.files import folder_written_whole, write_json
from csd_nerf.methods.csd_dreamfusion.prompts import VIEWS, view_weights
from csd_nerf.synthetic import objects, wordings
from csd_nerf.synthetic.palette import COLOURS, SHAPES
from training import loop, text_card
from training.denoising import train_denoiser, velocity_loss

SIZE = 32
"""Edge of the images in pixels."""
TEXT_WIDTH, MAX_TOKENS = 64, 77
"""IFPipeline pads every prompt to 77 tokens."""
OVERHEAD = torch.pi / 3
"""Elevation at which half the text says overhead; csd-dreamfusion's."""
DROP_TEXT, DROP_VIEW = 0.12, 0.25
"""Shares of training pictures shown without a text, and without the view in it."""


@dataclass(frozen=True)
class Recipe:
    """What decides the result."""

    work: Path = Path("outputs/tiny_text_prior")
    """Folder for the checkpoint."""
    steps: int = 5000
    batch: int = 32
    learning_rate: float = 1.2e-3
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    output: Path = Path("csd_nerf/assets/tiny_text")
    """Where the finished model goes."""


def all_captions() -> list[str]:
    """Every caption that training uses, with and without views."""
    words = [c for shape in SHAPES for colour in COLOURS for c in wordings.captions(shape, colour)]
    return [*words, *(caption for said in words for caption in view_captions(said))]


def view_captions(said: str) -> list[str]:
    """A caption for each of the views."""
    return [f"{said}, {view} view" for view in VIEWS]


def build_tokenizer(captions: Iterable[str]) -> T5Tokenizer:
    """A unigram tokenizer in T5's format whose pieces are learnt from the captions."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=160,
        special_tokens=special,
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=list("▁abcdefghijklmnopqrstuvwxyz,"),
    )
    learner.train_from_iterator(captions, trainer)
    pieces = json.loads(learner.to_str())["model"]["vocab"]
    vocab = [(str(piece), float(score)) for piece, score in pieces]
    # The learner orders what is equally rare by chance: an interrupted training would go on with
    # other tokens.
    first = len(special)
    vocab[first:] = sorted(vocab[first:], key=lambda piece: (-round(piece[1], 2), piece[0]))
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: T5Tokenizer, seed: int) -> T5EncoderModel:
    """Two layers, trained from scratch."""
    torch.manual_seed(seed)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=16,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def build_unet(seed: int) -> UNet2DConditionModel:
    """DeepFloyd IF's kind of U-Net, small: text by attention where pixels are few, and pooled.

    Its other three output channels are where IF has its learned variance. Nobody reads them.
    """
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "sample_size": SIZE,
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ("DownBlock2D",) * 2 + ("SimpleCrossAttnDownBlock2D",) * 2,
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * 2,
        "block_out_channels": (32, 64, 96, 128),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "encoder_hid_dim": TEXT_WIDTH,
        "encoder_hid_dim_type": "text_proj",
        "attention_head_dim": 32,
        "norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    }
    return UNet2DConditionModel(**options)


def build_scheduler() -> DDPMScheduler:
    """IF's cosine schedule with fixed variance, and v prediction, which learns colours better."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        variance_type="fixed_small",
        clip_sample=True,
    )


def tokenise(tokenizer: T5Tokenizer, captions: list[str]) -> Any:
    """Token ids and mask, as IFPipeline makes them."""
    return tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    )


def draw_captions(words: list[str], generator: torch.Generator) -> list[list[str]]:
    """The captions of each picture whose embeddings are mixed: most name views, some are empty."""
    chance = torch.rand(len(words), generator=generator).tolist()
    return [
        [""] * len(VIEWS)
        if p < DROP_TEXT
        else [said] * len(VIEWS)
        if p < DROP_TEXT + DROP_VIEW
        else view_captions(said)
        for p, said in zip(chance, words, strict=True)
    ]


def encode_captions(
    text_encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
    captions: list[list[str]],
    weights: Float[Tensor, "n views"],
) -> Float[Tensor, "n tokens width"]:
    """Mix the embeddings of each picture's captions; equal captions are encoded once."""
    different = sorted({caption for each in captions for caption in each})
    tokens = tokenise(tokenizer, different).to(weights.device)
    texts = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    rows = torch.tensor([[different.index(caption) for caption in each] for each in captions])
    return torch.einsum("nk,nktw->ntw", weights, texts[rows.to(texts.device)])


def train(
    unet: UNet2DConditionModel,
    text_encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
    recipe: Recipe,
) -> loop.Course:
    """Train both; their parameters end as the moving average. Returns the course of the loss."""
    device = torch.device(recipe.device)
    unet.to(device, memory_format=torch.channels_last)
    text_encoder.to(device)
    scheduler = build_scheduler()
    timesteps = scheduler.config["num_train_timesteps"]

    def loss_of(index: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
        drawn, cameras, words, azimuth, elevation = objects.draw_views(recipe.batch, generator)
        image01 = objects.render_objects(drawn, cameras, size=SIZE).image01
        clean = (2 * image01 - 1).to(device, memory_format=torch.channels_last)
        weights = view_weights(azimuth, elevation, overhead=OVERHEAD).to(device)
        captions = draw_captions(words, generator)
        text = encode_captions(text_encoder, tokenizer, captions, weights)
        timestep = torch.randint(timesteps, (len(clean),), generator=generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return velocity_loss(unet, scheduler, clean, noise, timestep, text)

    return train_denoiser(
        unet,
        text_encoder,
        loss_of,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        checkpoint=recipe.work / "denoiser.pt",
        label="text prior",
    )


def export(
    output: Path,
    unet: UNet2DConditionModel,
    text_encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
    record: dict[str, Any],
) -> None:
    """Write the pipeline folder in half precision, under a temporary name first."""
    pipeline = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.cpu().half(),
        unet=unet.cpu().half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    with folder_written_whole(output, marker="model_index.json") as partial:
        pipeline.save_pretrained(partial)
        write_json(partial / "training.json", record)


def main(recipe: Recipe) -> None:
    """Train what is not trained yet, and export it."""
    recipe.work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(all_captions())
    text_encoder = build_text_encoder(tokenizer, recipe.seed)
    unet = build_unet(recipe.seed)
    course = train(unet, text_encoder, tokenizer, recipe)
    values = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    record = {
        "recipe": {k: v for k, v in values.items() if k not in ("work", "output")},
        "pictures": recipe.steps * recipe.batch,
        "seconds": course.seconds,
        "machine": f"{recipe.device}, {torch.get_num_threads()} threads",
        "loss": course.losses,
    }
    export(recipe.output, unet, text_encoder, tokenizer, record)
    text_card.write(text_card.Settings(prior=recipe.output))


if __name__ == "__main__":
    main(tyro.cli(Recipe))
