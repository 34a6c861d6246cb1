"""The bundled text-to-image prior's training: its parts, its data, a short run and its export."""

from __future__ import annotations

import json
import math

import torch

from csd_nerf import priors
from csd_nerf.synthetic import objects
from training import tiny_text_prior as training


def test_every_word_of_the_captions_is_known_to_the_tokenizer():
    captions = training.all_captions()
    tokenizer = training.build_tokenizer(captions)
    ids = training.tokenise(tokenizer, captions).input_ids
    assert ids.shape == (len(captions), 77)
    assert not bool((ids == tokenizer.unk_token_id).any())
    assert len({tuple(row) for row in ids.tolist()}) == len(captions)


def test_captions_are_dropped_and_shortened_as_often_as_the_recipe_says():
    generator = torch.Generator().manual_seed(0)
    count = 4000
    drawn = training.draw_captions(["a red cube"] * count, ["side"] * count, generator)
    shares = {said: drawn.count(said) / count for said in set(drawn)}
    assert set(shares) == {"", "a red cube", "a red cube, side view"}
    assert math.isclose(shares[""], training.DROP_TEXT, abs_tol=0.02)
    assert math.isclose(shares["a red cube"], training.DROP_VIEW, abs_tol=0.02)


def test_a_short_run_exports_a_prior_and_goes_on_where_it_stopped(tmp_path):
    def recipe(steps, work, output):
        return training.Recipe(
            work=tmp_path / work, output=tmp_path / output, steps=steps, batch=2, device="cpu"
        )

    training.main(recipe(2, "a", "whole"))
    record = json.loads((tmp_path / "whole/training.json").read_text())
    assert record["pictures"] == 4
    assert "work" not in record["recipe"]
    prior = priors.load_text_to_image(tmp_path / "whole")
    assert (prior.preferred_size, prior.latent_channels, prior.cell_size) == (32, 3, 1)
    assert prior.encode_text(["a red cube"]).shape == (1, 77, 64)
    # Exporting again needs no further step.
    before = (tmp_path / "a/denoiser.pt").read_bytes()
    training.main(recipe(2, "a", "again"))
    assert (tmp_path / "a/denoiser.pt").read_bytes() == before
    one, two = (tmp_path / name / "unet" for name in ("whole", "again"))
    weights = "diffusion_pytorch_model.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()


def test_training_sees_all_colours_shapes_and_views():
    *_, words, views = objects.draw_views(400, torch.Generator().manual_seed(1))
    found = {objects.find_object(said) for said in words}
    assert len(found) == 40
    assert set(views) == set(objects.VIEWS)
