"""The bundled text-to-image prior's training: its parts, its data, a short run and its export."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import torch

from csd_nerf import priors
from csd_nerf.synthetic import objects
from training import text_card
from training import tiny_text_prior as training


def test_every_word_of_the_captions_is_known_to_the_tokenizer():
    captions = training.all_captions()
    tokenizer = training.build_tokenizer(captions)
    ids = training.tokenise(tokenizer, captions).input_ids
    assert ids.shape == (len(captions), 77)
    assert not bool((ids == tokenizer.unk_token_id).any())
    assert len({tuple(row) for row in ids.tolist()}) == len(captions)


def test_the_tokenizer_is_the_same_every_time():
    captions = training.all_captions()
    first, *others = (training.build_tokenizer(captions).get_vocab() for _ in range(6))
    assert all(vocab == first for vocab in others)


def test_captions_are_dropped_and_shortened_as_often_as_the_recipe_says():
    generator = torch.Generator().manual_seed(0)
    count = 4000
    drawn = training.draw_captions(["a red cube"] * count, generator)
    shares = {said: sum(each[0] == said for each in drawn) / count for said, *_ in drawn}
    views = training.view_captions("a red cube")
    assert views[1] == "a red cube, side view"
    assert {tuple(each) for each in drawn} == {("",) * 4, ("a red cube",) * 4, tuple(views)}
    assert math.isclose(shares[""], training.DROP_TEXT, abs_tol=0.02)
    assert math.isclose(shares["a red cube"], training.DROP_VIEW, abs_tol=0.02)


def test_pictures_are_told_apart_by_mixed_texts():
    """As csd-dreamfusion mixes them, from captions that are encoded one by one."""
    tokenizer = training.build_tokenizer(training.all_captions())
    encoder = training.build_text_encoder(tokenizer, 0).eval()
    weights = torch.tensor([[0.2, 0.8, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6], [0.5, 0.2, 0.0, 0.3]])
    captions = [training.view_captions("a red cube"), ["a blue ball"] * 4, [""] * 4]
    mixed = training.encode_captions(encoder, tokenizer, captions, weights)
    for row, each, shares in zip(mixed, captions, weights, strict=True):
        expected = torch.zeros(77, training.TEXT_WIDTH)
        for caption, share in zip(each, shares, strict=True):
            tokens = training.tokenise(tokenizer, [caption])
            expected += (
                share * encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0][0]
            )
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_the_cards_overlap_is_one_for_a_true_silhouette_wherever_it_is():
    cone = text_card.silhouettes("cone", "side")
    mask = cone[7].roll((2, -3), dims=(0, 1))
    assert text_card.overlap(mask, cone) == 1
    assert text_card.overlap(mask, text_card.silhouettes("cube", "side")) < 0.85
    assert text_card.overlap(torch.zeros_like(mask), cone) == 0


def test_the_card_finds_an_object_by_its_colour():
    picture = torch.full((3, 32, 32), 0.8)
    picture[:, 8:20, 10:15] = torch.tensor([0.7, 0.2, 0.1])[:, None, None]
    mask = text_card.object_mask(picture, "red")
    assert int(mask.sum()) == 60
    assert bool(mask[8:20, 10:15].all())


def test_a_short_run_exports_a_prior_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    quick = text_card.Settings(steps=1, seeds=1)
    monkeypatch.setattr(
        text_card, "write", lambda s, write=text_card.write: write(replace(quick, prior=s.prior))
    )

    def recipe(steps, work, output):
        return training.Recipe(
            work=tmp_path / work, output=tmp_path / output, steps=steps, batch=2, device="cpu"
        )

    training.main(recipe(2, "a", "whole"))
    record = json.loads((tmp_path / "whole/training.json").read_text())
    assert record["pictures"] == 4
    assert "work" not in record["recipe"]
    prior = priors.load(tmp_path / "whole", kind="text")
    assert (prior.preferred_size, prior.latent_channels, prior.cell_size) == (32, 3, 1)
    assert prior.encode_text(["a red cube"])["text"].shape == (1, 77, 64)
    card = (tmp_path / "whole/README.md").read_text()
    assert "| cone, overhead view |" in card
    assert str(tmp_path) not in card
    # Exporting again needs no further step.
    before = (tmp_path / "a/denoiser.pt").read_bytes()
    training.main(recipe(2, "a", "again"))
    assert (tmp_path / "a/denoiser.pt").read_bytes() == before
    one, two = (tmp_path / name / "unet" for name in ("whole", "again"))
    weights = "diffusion_pytorch_model.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()


def test_training_sees_all_colours_and_shapes():
    _, _, words, _, _ = objects.draw_views(400, torch.Generator().manual_seed(1))
    assert len({objects.find_object(said) for said in words}) == 40
