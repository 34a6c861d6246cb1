"""The text encoder and the U-Net, trained together on encoded pairs."""

from __future__ import annotations

import copy
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import all_edits
from training import loop
from training.denoising import train_denoiser, velocity_loss

TEXT_WIDTH, MAX_TOKENS = 96, 24
DROP_TEXT, DROP_IMAGE, DROP_BOTH = 0.05, 0.05, 0.05
"""InstructPix2Pix's dropout for classifier-free guidance (Brooks et al. 2023, 3.2.1)."""
CHANGED, CHANGE_WEIGHT = 0.1, 5.0
"""Mean squared difference of latents from which a cell counts as changed, and how many times an
unchanged cell's error a changed one's counts."""


@dataclass(frozen=True)
class LatentShard:
    """Encoded pairs of one size: modes, unscaled."""

    source: torch.Tensor
    edited: torch.Tensor
    asked: Sequence[str]
    """Name of the edit or choice that each pair's instruction asks for."""


def build_tokenizer(captions: Iterable[str], *, vocabulary: int = 850) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format, with merges learnt from the captions."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(alphabet),
        special_tokens=special,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator(captions, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    # Every letter may also end a word; the trainer adds only the endings that it saw.
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    entries += [token for token in learnt["vocab"] if token not in set(entries) | set(special)]
    vocab = {token: index for index, token in enumerate([*entries, *special])}
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in learnt["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """Two layers, trained from scratch."""
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(latent_channels: int, seed: int) -> UNet2DConditionModel:
    """A small U-Net with text attention on the two coarser of its three levels."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * latent_channels,
        out_channels=latent_channels,
        # On the finest level attention would cost half of all time; the text has its say below.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def change_weight(
    source: Float[Tensor, "n c h w"], edited: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n 1 h w"]:
    """Weights of the loss that draw attention to what an edit changes; their mean is 1 a pair.

    A recoloured object fills a few cells, whose errors vanish in the mean over the image, although
    to find the object by its name is what is hardest to learn. The weights depend on the cell and
    on what is asked, hardly on which of several answers was drawn, so that the best prediction
    stays the posterior mean.

    Args:
        source: Latents of the sources, of unit variance.
        edited: Latents of the edited images, of the same scale.
    """
    changed = (edited - source).square().mean(1, keepdim=True) > CHANGED
    weight = 1 + (CHANGE_WEIGHT - 1) * changed
    return weight / weight.mean((2, 3), keepdim=True)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v prediction, which learns mean colours better."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Wordings:
    """Token ids of every wording, drawn by edit or choice."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self._by_name: dict[str, list[int]] = defaultdict(list)
        texts = [""]
        for asked in (*all_edits().values(), *all_choices().values()):
            for text in asked.instructions:
                self._by_name[asked.name].append(len(texts))
                texts.append(text)
        # A tokenizer keeps how it was called last, which is not to be saved with it.
        self.tokens = copy.deepcopy(tokenizer)(
            texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        ).input_ids

    def draw(self, names: Sequence[str], choose: random.Random) -> list[int]:
        """A row of `tokens` for each name; row 0 is the empty prompt."""
        return [choose.choice(self._by_name[name]) for name in names]


def train(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    shards: Sequence[LatentShard],
    *,
    scaling_factor: float,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    checkpoint: Path,
    device: torch.device,
) -> loop.Course:
    """Train both; their parameters end as the moving average. Returns the course of the loss."""
    unet.to(device)
    text_encoder.to(device)
    scheduler = build_scheduler()
    wordings = Wordings(tokenizer)
    tokens = wordings.tokens.to(device)
    sizes = torch.tensor([float(len(s.asked)) for s in shards])
    timesteps = scheduler.config["num_train_timesteps"]

    def loss_of(index: int, generator: torch.Generator) -> torch.Tensor:
        shard = shards[int(torch.multinomial(sizes, 1, generator=generator))]
        rows = torch.randint(len(shard.asked), (batch,), generator=generator)
        choose = random.Random(seed * 1_000_003 + index)
        words = wordings.draw([shard.asked[i] for i in rows.tolist()], choose)
        drop = torch.rand(batch, generator=generator)
        no_text = (drop < DROP_TEXT) | (drop >= 1 - DROP_BOTH)
        no_image = ((drop >= DROP_TEXT) & (drop < DROP_TEXT + DROP_IMAGE)) | (drop >= 1 - DROP_BOTH)
        timestep = torch.randint(timesteps, (batch,), generator=generator).to(device)
        clean = scaling_factor * shard.edited[rows].to(device).float()
        noise = torch.randn(clean.shape, generator=generator).to(device)
        condition = shard.source[rows].to(device).float()
        # Without text or image nothing tells which cells are to change.
        weight = change_weight(scaling_factor * condition, clean)
        weight = weight.where(~(no_text | no_image).to(device)[:, None, None, None], 1.0)
        condition = condition * (~no_image).to(device)[:, None, None, None]
        text = text_encoder(tokens[torch.tensor(words).masked_fill(no_text, 0)]).last_hidden_state
        return velocity_loss(
            unet, scheduler, clean, noise, timestep, text, condition=condition, weight=weight
        )

    return train_denoiser(
        unet,
        text_encoder,
        loss_of,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        checkpoint=checkpoint,
        label="denoiser",
    )
