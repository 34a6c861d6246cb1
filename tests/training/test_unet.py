from __future__ import annotations

import random

import pytest
import torch
from transformers import CLIPTokenizer

from csd_nerf.synthetic.choices import all_choices
from csd_nerf.synthetic.edits import all_edits
from training import data, unet


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return unet.build_tokenizer(data.captions())


ASKED = {**all_edits(), **all_choices()}


def every_wording() -> list[str]:
    return [text for a in ASKED.values() for text in (*a.instructions, a.unseen_instruction)]


def test_captions_are_the_training_wordings_and_no_other():
    unseen = {asked.unseen_instruction for asked in ASKED.values()}
    captions = [*data.captions()]
    assert len(captions) == sum(len(asked.instructions) for asked in ASKED.values())
    assert not unseen & {*captions}


def test_every_wording_fits_and_comes_back(tokenizer):
    for text in every_wording():
        tokens = tokenizer(text).input_ids
        assert len(tokens) <= unet.MAX_TOKENS
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == text.lower()


def test_words_that_nobody_thought_of_are_spelt(tokenizer):
    tokens = tokenizer("Zebra, Größe: 7!").input_ids
    assert tokenizer.unk_token_id not in tokens[1:-1]
    assert tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "") == "zebra,größe:7!"


def test_the_tokenizer_survives_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    texts = every_wording()
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert len(again) == len(tokenizer) <= 850 + 256


def test_training_leaves_the_tokenizer_s_folder_as_it_is(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "before")
    unet.Wordings(tokenizer)
    tokenizer.save_pretrained(tmp_path / "after")
    for path in sorted((tmp_path / "before").iterdir()):
        assert (tmp_path / "after" / path.name).read_bytes() == path.read_bytes()


def test_the_words_of_a_pair_are_those_of_its_edit_or_choice(tokenizer):
    wordings = unet.Wordings(tokenizer)
    choose = random.Random(0)
    for name, asked in ASKED.items():
        rows = wordings.draw([name] * 40, choose)
        drawn = {tokenizer.decode(wordings.tokens[r], skip_special_tokens=True) for r in rows}
        assert {text.strip() for text in drawn} <= {text.lower() for text in asked.instructions}
        assert len(drawn) > 1
    empty = tokenizer.decode(wordings.tokens[0], skip_special_tokens=True)
    assert empty.strip() == ""


def test_changed_cells_weigh_five_times_as_much_as_others():
    """Four of 16 cells change in the first pair, all in the second, none in the third."""
    source = torch.zeros(3, 2, 4, 4)
    edited = source.clone()
    edited[0, :, 1:3, 1:3] = 0.5
    edited[0, 0, 0, 0] = 0.3  # 0.045 in the mean over the channels: too little.
    edited[1] = 1.0
    weight = unet.change_weight(source, edited)
    expected = torch.full((4, 4), 0.5)
    expected[1:3, 1:3] = 2.5
    assert torch.allclose(weight[0, 0], expected)
    assert torch.allclose(weight[1:], torch.ones(2, 1, 4, 4))
    assert torch.equal(unet.change_weight(edited, source), weight)


def test_pairs_weigh_changes_where_text_and_image_are_shown(tokenizer, monkeypatch, tmp_path):
    """What `velocity_loss` gets: a pair whose text or image is dropped has equal weights."""
    seen = []

    def spy(model, scheduler, clean, noise, timestep, text, *, condition, weight):
        seen.append((condition, weight))
        return (model.weight * 0).sum()

    def loop_of(model, encoder, loss_of, **_):
        loss_of(0, torch.Generator().manual_seed(3))

    monkeypatch.setattr(unet, "velocity_loss", spy)
    monkeypatch.setattr(unet, "train_denoiser", loop_of)
    monkeypatch.setattr(unet, "DROP_IMAGE", 0.4)
    source = torch.ones(64, 2, 4, 4)
    edited = source.clone()
    edited[:, :, 0, 0] = 3.0
    shard = unet.LatentShard(source.half(), edited.half(), ["night"] * 64)
    unet.train(
        torch.nn.Linear(1, 1),
        unet.build_text_encoder(tokenizer, 0),
        tokenizer,
        [shard],
        scaling_factor=0.5,
        steps=1,
        batch=64,
        learning_rate=1e-3,
        seed=0,
        checkpoint=tmp_path / "none.pt",
        device=torch.device("cpu"),
    )
    ((condition, weight),) = seen
    no_image = (condition == 0).all(1).all(1).all(1)
    assert 10 < int(no_image.sum()) < 54
    assert torch.allclose(weight[no_image], torch.ones(()))
    ratio = weight[~no_image, 0, 0, 0] / weight[~no_image, 0, 1, 1]
    # A few have lost their text instead.
    assert set(ratio.tolist()) == {1.0, 5.0}
    assert (ratio == 5.0).float().mean() > 0.7
