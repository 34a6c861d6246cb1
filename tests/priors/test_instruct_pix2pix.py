"""The prior against its own parts, called one evaluation at a time."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from csd_nerf import priors
from csd_nerf.priors import Branch

PROMPT = "make the sphere blue"


@pytest.fixture(scope="module")
def prior(folder):
    return priors.load(folder)


def images(n: int = 1, *, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(7))


def some_branches(prior: priors.Prior, n: int) -> list[Branch]:
    """Every kind of branch: text of one row and of n rows, with and without a condition."""
    image01 = images(n)
    generator = torch.Generator().manual_seed(3)
    noisy, other = torch.randn(2, n, prior.latent_channels, 8, 12, generator=generator)
    _, image_rows = prior.encode_source(image01)
    empty = prior.encode_text([""])
    each = prior.encode_text([PROMPT, "fog", "a red floor"][:n])
    return [
        Branch(noisy, empty),
        Branch(noisy, {**empty, **image_rows}),
        Branch(noisy, {**each, **image_rows}),
        Branch(other, each),
    ]


@torch.no_grad()
def predict_singly(folder, branches, timestep, *, prediction_type: str) -> torch.Tensor:
    """Noise estimates by the definition: one evaluation a call, in float64 where it is ours."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    squares = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double()
    rows = []
    for branch in branches:
        for i, t in enumerate(timestep.tolist()):
            z = branch.noisy[i : i + 1]
            texts = branch.rows["text"]
            text = texts[i if len(texts) > 1 else 0][None]
            condition = torch.zeros_like(z)
            if "condition" in branch.rows:
                condition = branch.rows["condition"][i : i + 1]
            output = unet(torch.cat([z, condition], 1), t, text)[0].double()
            if prediction_type == "v_prediction":
                output = squares[t] ** 0.5 * output + (1 - squares[t]) ** 0.5 * z.double()
            rows.append(output)
    return torch.cat(rows).unflatten(0, (len(branches), len(timestep))).float()


@pytest.mark.parametrize("max_batch", [None, 1, 5, 100])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_predict_is_one_evaluation_a_row(make_folder, prediction_type, max_batch):
    folder = make_folder("ddim", prediction_type)
    prior = priors.load(folder)
    branches = some_branches(prior, 3)
    timestep = torch.tensor([20, 499, 981])
    expected = predict_singly(folder, branches, timestep, prediction_type=prediction_type)
    estimates = prior.predict(branches, timestep, max_batch=max_batch)
    assert estimates.dtype == torch.float32
    torch.testing.assert_close(estimates, expected, atol=1e-5, rtol=1e-5)


def test_a_branch_is_evaluated_for_the_particles_that_it_names(prior):
    """As in a prediction of these particles alone; the other particles' estimates are zero."""
    branches, timestep = some_branches(prior, 3), torch.tensor([20, 499, 981])
    whole = prior.predict(branches, timestep)
    some = [replace(branches[2], particles=torch.tensor([2, 0])), branches[1]]
    text, image = prior.predict(some, timestep, max_batch=2)
    torch.testing.assert_close(text[[0, 2]], whole[2, [0, 2]])
    assert not text[1].any()
    torch.testing.assert_close(image, whole[1])


def test_a_source_is_encoded_once_for_latent_and_condition(prior, monkeypatch):
    image01, calls = images(2), []
    encode = prior._vae.encode
    monkeypatch.setattr(prior._vae, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    latent, rows = prior.encode_source(image01)
    assert len(calls) == len(image01)
    assert list(rows) == list(prior.source_rows) == ["condition"]
    assert torch.equal(latent, prior.encode(image01))
    scale = prior._vae.config["scaling_factor"]
    torch.testing.assert_close(rows["condition"] * scale, latent)


def test_tiles_are_decoded_by_the_statistics_of_their_sample(prior):
    """The sample itself is; afterwards a latent is decoded by its own again."""
    latent = torch.randn(3, prior.latent_channels, 8, 8) * torch.tensor([0.1, 1, 4]).view(
        3, 1, 1, 1
    )
    alone = [prior.decode(row[None]) for row in latent]
    with prior.decoding_tiles(latent):
        together = prior.decode(latent)
        again = [prior.decode(row[None]) for row in latent]
    torch.testing.assert_close(torch.cat(again), together)
    assert not torch.allclose(together, torch.cat(alone), atol=1e-2)
    torch.testing.assert_close(prior.decode(latent[:1]), alone[0])
    image01 = images(2)
    with prior.encoding_tiles(image01):
        assert not torch.allclose(
            prior.encode(image01[:1] / 9), prior.encode(image01[:1]), atol=1e-3
        )
        first = prior.encode(image01[:1])
        torch.testing.assert_close(prior.encode(image01)[:1], first)


def test_predict_batches_as_told(prior, monkeypatch):
    sizes = []
    forward = prior._unet.forward
    monkeypatch.setattr(
        prior._unet,
        "forward",
        lambda z, *args, **kw: sizes.append(len(z)) or forward(z, *args, **kw),
    )
    branches = some_branches(prior, 3)
    prior.predict(branches, torch.tensor([1, 2, 3]))
    prior.predict(branches, torch.tensor([1, 2, 3]), max_batch=5)
    assert sizes == [12, 5, 5, 2]


def test_a_whole_timestep_may_be_a_float(make_folder):
    # Fractions between are compared with diffusers' pipeline, see test_sampling.
    prior = priors.load(make_folder("ddim", "v_prediction"))
    branches = some_branches(prior, 2)
    below = prior.predict(branches, torch.tensor([500, 500]))
    above = prior.predict(branches, torch.tensor([501, 501]))
    whole = prior.predict(branches, torch.tensor([500.0, 501.0]))
    torch.testing.assert_close(whole[:, 0], below[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[:, 1], above[:, 1], atol=1e-5, rtol=0)


def test_latents_are_scaled_modes_and_conditions_are_raw_modes(folder, prior):
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    image01 = images(2)
    with torch.no_grad():
        mode = vae.encode(2 * image01 - 1).latent_dist.mode()
        pixels = vae.decode(mode).sample
    torch.testing.assert_close(prior.encode(image01), mode * vae.config.scaling_factor)
    torch.testing.assert_close(condition_of(prior, image01), mode)
    decoded = prior.decode(prior.encode(image01))
    torch.testing.assert_close(decoded, (pixels / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    extremes = prior.decode(100 * prior.encode(image01))
    assert extremes.min() >= 0
    assert extremes.max() <= 1


def test_a_condition_can_be_scaled_like_the_latents(folder, prior):
    latent, rows = priors.load(folder, condition="scaled").encode_source(images(2))
    assert torch.equal(rows["condition"], latent)
    factor = json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"]
    _, raw = prior.encode_source(images(2))
    torch.testing.assert_close(rows["condition"], factor * raw["condition"])


def test_a_text_to_image_model_has_no_condition(folder):
    with pytest.raises(ValueError, match=r"condition needs an editing model, .* got scaled for a"):
        priors.load(folder, condition="scaled", kind="text")


def test_a_latent_shift_is_taken_off_and_put_back(folder, tmp_path):
    shifted = copy_of(folder, tmp_path)
    change_config(shifted / "vae" / "config.json", shift_factor=0.5)
    plain, moved = priors.load(folder), priors.load(shifted)
    latent = plain.encode(images())
    scale = AutoencoderKL.from_pretrained(folder / "vae").config.scaling_factor
    torch.testing.assert_close(moved.encode(images()), latent - 0.5 * scale)
    torch.testing.assert_close(condition_of(moved, images()), condition_of(plain, images()))
    torch.testing.assert_close(moved.decode(moved.encode(images())), plain.decode(latent))


def test_text_is_the_encoders_last_state_over_padded_tokens(folder, prior):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    rows = []
    for prompt in ("", PROMPT):
        ids = tokenizer(prompt).input_ids
        ids = ids + [tokenizer.pad_token_id] * (24 - len(ids))
        with torch.no_grad():
            rows.append(encoder(torch.tensor([ids])).last_hidden_state)
    encoded = prior.encode_text(["", PROMPT])
    assert list(encoded) == ["text"]
    torch.testing.assert_close(encoded["text"], torch.cat(rows), atol=1e-5, rtol=1e-5)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(prior):
    long_prompt = " ".join([PROMPT] * 6) + " red floor"
    told = r"26 tokens.* 22: 'sphere blue red floor' is cut off"
    with pytest.warns(UserWarning, match=told):
        cut = prior.encode_text([long_prompt])["text"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = prior.encode_text([" ".join([PROMPT] * 5 + ["make the"])])["text"]
    torch.testing.assert_close(cut[:, :22], kept[:, :22])


def test_nothing_but_encode_carries_a_graph(prior):
    image01 = images().requires_grad_()
    assert prior.encode(image01).requires_grad
    latent, image_rows = prior.encode_source(image01)
    rows = {**prior.encode_text([PROMPT]), **image_rows}
    branch = Branch(latent.clone().requires_grad_(), rows)
    estimate = prior.predict([branch], torch.tensor([300]))
    for tensor in (latent, *rows.values(), estimate, prior.decode(branch.noisy)):
        assert not tensor.requires_grad
        # An inference tensor could not be used in a graph that the caller builds.
        assert not tensor.is_inference()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.01), ("bfloat16", 0.06)])
def test_half_precision_is_close_and_returns_float32(folder, prior, dtype, tolerance):
    half = priors.load(folder, dtype=dtype)
    timestep = torch.tensor([100, 700])
    exact = prior.predict(some_branches(prior, 2), timestep)
    rough = half.predict(some_branches(half, 2), timestep)
    assert rough.dtype == half.encode(images()).dtype == torch.float32
    assert half.decode(half.encode(images())).dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < tolerance


def test_the_autoencoder_takes_one_image_a_call_and_large_ones_in_tiles(folder, prior):
    thrifty = priors.load(folder, vae_tiling=True)
    calls = []
    decode = thrifty._vae.decoder.forward
    thrifty._vae.decoder.forward = lambda z: calls.append(z.shape) or decode(z)
    latent = prior.encode(images(3))
    torch.testing.assert_close(thrifty.encode(images(3)), latent)
    torch.testing.assert_close(thrifty.decode(latent), prior.decode(latent), atol=1e-5, rtol=0)
    assert [shape[0] for shape in calls] == [1, 1, 1]
    thrifty.decode(thrifty.encode(images(height=128, width=128)))
    assert all(max(shape[-2:]) <= 16 for shape in calls)


def test_sizes_come_from_the_configurations(prior):
    assert isinstance(prior, priors.Prior)
    assert (prior.cell_size, prior.preferred_size, prior.size_multiple) == (4, 64, 8)
    assert prior.latent_channels == 4
    assert prior.source_rows == ("condition",)
    assert prior.schedule.num_timesteps == 1000


def test_the_schedule_is_the_training_schedule(folder, prior):
    squares = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
    torch.testing.assert_close(prior.schedule.alphas_cumprod.float(), squares)


def condition_of(prior, image01) -> torch.Tensor:
    return prior.encode_source(image01)[1]["condition"]


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change_config(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "got 'sample' from"),
        ("unet/config.json", {"sample_size": [16, 24]}, r"one integer .*got .*16, 24"),
    ],
)
def test_models_that_do_not_fit_are_named(folder, tmp_path, file, values, message):
    other = copy_of(folder, tmp_path)
    change_config(other / file, **values)
    with pytest.raises(ValueError, match=message):
        priors.load(other)


def test_the_u_net_of_a_text_to_image_model_is_refused(folder, tmp_path):
    other = copy_of(folder, tmp_path)
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config({**config, "in_channels": 4}).save_pretrained(other / "unet")
    told = r"needs 8 input channels \(latent and condition\) to be one of InstructPix2Pix, got 4"
    with pytest.raises(ValueError, match=told):
        priors.load(other)


def test_bad_arguments_are_named(prior):
    branches = some_branches(prior, 3)
    timestep = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="got 0 branches"):
        prior.predict([], timestep)
    with pytest.raises(ValueError, match="max_batch 0"):
        prior.predict(branches, timestep, max_batch=0)
    two_rows = Branch(branches[0].noisy, prior.encode_text(["", PROMPT]))
    with pytest.raises(ValueError, match=r"'text' need 1 row or one a particle \(3\), got 2"):
        prior.predict([two_rows], timestep)
    unknown = Branch(branches[0].noisy, {**branches[0].rows, "control": branches[0].noisy})
    with pytest.raises(ValueError, match="takes the rows text, condition, got control too: leave"):
        prior.predict([unknown], timestep)
    with pytest.raises(ValueError, match="multiples of 8, got 32 x 44: resize"):
        prior.encode(images(width=44))
    with pytest.raises(ValueError, match="got 'fog'"):
        prior.encode_text("fog")
    with pytest.raises(ValueError, match="one of auto, float32, float16, bfloat16, got float64"):
        priors.load("tiny", dtype="float64")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_prior_on_another_device_takes_and_returns_the_callers_tensors(folder, prior, dtype):
    away = priors.load(folder, device="cuda", dtype=dtype)
    timestep = torch.tensor([100, 700])
    exact = prior.predict(some_branches(prior, 2), timestep)
    estimate = away.predict(some_branches(away, 2), timestep)
    latent = away.encode(images())
    assert estimate.device == latent.device == away.decode(latent).device == torch.device("cpu")
    assert (estimate - exact).norm() / exact.norm() < 0.06
