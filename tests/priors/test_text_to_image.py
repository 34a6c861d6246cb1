"""Text-to-image priors: what they encode, predict and refuse; see test_text_sampling for images."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from csd_nerf import priors
from csd_nerf.priors import Branch, deepfloyd_if

PROMPT = "make the sphere blue"
MODELS = ("pixels", "latents")


@pytest.fixture(scope="module", params=MODELS)
def folder(request, make_text_folder) -> Path:
    return make_text_folder(request.param)


@pytest.fixture(scope="module")
def prior(folder) -> priors.TextToImage:
    return priors.load_text_to_image(folder)


@pytest.fixture(scope="module")
def pixels(make_text_folder) -> priors.TextToImage:
    return priors.load_text_to_image(make_text_folder("pixels"))


@pytest.fixture
def latents(make_text_folder) -> priors.TextToImage:
    return priors.load_text_to_image(make_text_folder("latents"))


def images(n: int = 1, *, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(7))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_a_prior_is_a_text_to_image_prior_and_no_editing_prior(prior):
    assert isinstance(prior, priors.TextToImage)
    assert not isinstance(prior, priors.Prior)


def test_sizes_come_from_the_configurations(pixels, latents):
    sizes = [
        (p.latent_channels, p.cell_size, p.preferred_size, p.size_multiple)
        for p in (pixels, latents)
    ]
    assert sizes == [(3, 1, 16, 2), (4, 4, 64, 8)]


def test_the_schedule_is_the_folders(folder, prior):
    table = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod
    assert torch.equal(prior.schedule.alphas_cumprod, table.double())


def test_pixels_are_their_own_latents(pixels):
    image01 = images(2).requires_grad_()
    latent = pixels.encode(image01)
    torch.testing.assert_close(latent, 2 * image01 - 1)
    (gradient,) = torch.autograd.grad(latent.sum(), image01)
    assert torch.equal(gradient, torch.full_like(image01, 2.0))
    torch.testing.assert_close(pixels.decode(latent.detach()), image01.detach())
    assert torch.equal(
        pixels.decode(torch.tensor([-3.0, 0, 3]).expand(1, 3, 1, 3))[0, 0, 0],
        torch.tensor([0, 0.5, 1]),
    )


def test_latents_are_scaled_modes(make_text_folder, latents):
    vae = AutoencoderKL.from_pretrained(make_text_folder("latents") / "vae")
    with torch.no_grad():
        mode = vae.encode(2 * images(2) - 1).latent_dist.mode()
        decoded = vae.decode(mode).sample
    torch.testing.assert_close(latents.encode(images(2)), mode * vae.config.scaling_factor)
    image01 = latents.decode(mode * vae.config.scaling_factor)
    torch.testing.assert_close(image01, (decoded / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)


def test_the_gradient_of_encode_agrees_with_finite_differences(latents):
    latents._vae.double()
    image01 = images().double().requires_grad_()
    weights = normal(*latents.encode(image01).shape)
    (gradient,) = torch.autograd.grad((latents.encode(image01) * weights).sum(), image01)
    step = 1e-3
    for seed in range(3):
        direction = torch.randn(image01.shape, generator=torch.Generator().manual_seed(seed))
        above, below = (
            latents.encode(image01.detach() + sign * step * direction) for sign in (1, -1)
        )
        slope = ((above - below).double() * weights).sum() / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(float(slope), rel=1e-3)


def test_only_encode_keeps_a_graph_and_no_weight_gets_a_gradient(prior):
    image01 = images().requires_grad_()
    latent = prior.encode(image01)
    text = prior.encode_text([PROMPT])
    estimate = prior.predict([Branch(latent, text)], torch.tensor([300]))
    for tensor in (text, estimate, prior.decode(latent)):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    latent.square().sum().backward()
    assert image01.grad.abs().sum() > 0
    modules = [part for part in vars(prior).values() if isinstance(part, torch.nn.Module)]
    assert len(modules) in (2, 3)
    for module in modules:
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    with torch.no_grad():
        assert not prior.encode(image01).requires_grad
    assert not prior.encode(images()).requires_grad


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("model", MODELS)
def test_predict_is_one_evaluation_a_row(make_text_folder, model, prediction_type):
    """By the definition: one evaluation a call, without the channels of a learned variance."""
    folder = make_text_folder(model, prediction_type=prediction_type)
    prior = priors.load_text_to_image(folder)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert unet.config.out_channels == {"pixels": 6, "latents": 4}[model]
    squares = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double()
    noisy, other = normal(2, 3, prior.latent_channels, 8, 12)
    branches = [
        Branch(noisy, prior.encode_text([""])),
        Branch(other, prior.encode_text([PROMPT, "fog", "a red floor"])),
    ]
    timestep = torch.tensor([20, 499, 981])
    expected = torch.zeros(2, *noisy.shape)
    for k, branch in enumerate(branches):
        for i, t in enumerate(timestep.tolist()):
            z, text = branch.noisy[i : i + 1], branch.text[i * k][None]
            with torch.no_grad():
                output = unet(z, t, text)[0][0, : prior.latent_channels].double()
            if prediction_type == "v_prediction":
                output = squares[t] ** 0.5 * output + (1 - squares[t]) ** 0.5 * z[0].double()
            expected[k, i] = output
    for max_batch in (None, 4):
        estimates = prior.predict(branches, timestep, max_batch=max_batch)
        assert estimates.dtype == torch.float32
        torch.testing.assert_close(estimates, expected, atol=1e-4, rtol=1e-4)


def test_a_branch_is_evaluated_for_the_rows_that_it_names(prior):
    noisy, text = normal(3, prior.latent_channels, 8, 8), prior.encode_text([PROMPT])
    timestep = torch.tensor([20, 499, 981])
    whole = prior.predict([Branch(noisy, text)], timestep)[0]
    some = prior.predict([Branch(noisy, text, rows=torch.tensor([2, 0]))], timestep)[0]
    torch.testing.assert_close(some[[0, 2]], whole[[0, 2]], atol=1e-5, rtol=1e-4)
    assert not some[1].any()


def test_texts_are_t5s_last_states_over_unpadded_tokens(make_text_folder, pixels):
    folder = make_text_folder("pixels")
    tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer")
    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder")
    texts = pixels.encode_text(["", f"  {PROMPT.upper()}\n"])
    assert texts.shape == (2, 77, 32)
    for row, prompt in zip(texts, ("", PROMPT), strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            states = encoder(ids).last_hidden_state[0]
        torch.testing.assert_close(row[: len(states)], states, atol=1e-5, rtol=1e-4)


def test_texts_are_clips_last_states_over_padded_tokens(make_text_folder, latents):
    folder = make_text_folder("latents")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for row, prompt in zip(latents.encode_text(["", PROMPT]), ("", PROMPT), strict=True):
        ids = tokenizer(prompt).input_ids
        ids = ids + [tokenizer.pad_token_id] * (24 - len(ids))
        with torch.no_grad():
            states = encoder(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(row, states, atol=1e-5, rtol=1e-5)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(pixels):
    words = ["sphere"] * 76
    with pytest.warns(UserWarning, match=r"78 tokens.* 76: 'blue fog?' is cut off"):
        cut = pixels.encode_text([" ".join([*words, "blue", "fog"])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = pixels.encode_text([" ".join(words)])
    torch.testing.assert_close(cut, kept)


def test_texts_may_be_mixed(prior):
    first, second = prior.encode_text([PROMPT, "fog"])
    noisy, timestep = normal(1, prior.latent_channels, 8, 8), torch.tensor([500])
    shown = [Branch(noisy, torch.lerp(first, second, w)[None]) for w in (0.0, 0.5, 1.0)]
    start, middle, end = prior.predict(shown, timestep)
    alone = prior.predict([Branch(noisy, prior.encode_text([PROMPT]))], timestep)[0]
    torch.testing.assert_close(start, alone, atol=1e-5, rtol=1e-4)
    assert (middle - start).abs().max() > 1e-3
    assert (middle - end).abs().max() > 1e-3


def test_the_text_encoder_can_be_dropped_once_texts_are_encoded(folder):
    prior = priors.load_text_to_image(folder)
    text = prior.encode_text([PROMPT])
    prior.free_text_encoder()
    with pytest.raises(RuntimeError, match=r"has freed: encode all texts before .*load") as error:
        prior.encode_text([PROMPT])
    assert "\n" not in str(error.value)
    assert not any(
        isinstance(part, (T5EncoderModel, CLIPTextModel)) for part in vars(prior).values()
    )
    noisy = normal(1, prior.latent_channels, 8, 8)
    assert prior.predict([Branch(noisy, text)], torch.tensor([1])).isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_half_precision_is_close_and_returns_float32(folder, prior, dtype, tolerance):
    half = priors.load_text_to_image(folder, dtype=dtype)
    noisy, timestep = normal(2, prior.latent_channels, 8, 8), torch.tensor([100, 700])
    exact, rough = (
        p.predict([Branch(noisy, p.encode_text([PROMPT]))], timestep) for p in (prior, half)
    )
    latent = half.encode(images())
    assert {rough.dtype, latent.dtype, half.decode(latent).dtype} == {torch.float32}
    assert half.encode_text(["fog"]).dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < tolerance


def change_unet(folder: Path, tmp_path: Path, **changes) -> Path:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = {**UNet2DConditionModel.load_config(folder / "unet"), **changes}
    UNet2DConditionModel.from_config(config).save_pretrained(copy / "unet")
    return copy


def test_parts_of_other_models_are_refused(make_text_folder, make_folder, tmp_path):
    upscaler = change_unet(make_text_folder("pixels"), tmp_path, in_channels=6)
    with pytest.raises(ValueError, match=r"pixel-space U-Net takes 3 .* takes 6: add the vae/"):
        priors.load_text_to_image(upscaler)
    with pytest.raises(ValueError, match=r"the 4 channels of its latents, .* takes 8: name a text"):
        priors.load_text_to_image(make_folder())


def test_other_predictions_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "sample"}))
    with pytest.raises(ValueError, match="epsilon, v_prediction, got 'sample'"):
        priors.load_text_to_image(copy)


def test_bad_arguments_are_named(prior):
    noisy, text = normal(1, prior.latent_channels, 8, 8), prior.encode_text([""])
    timestep = torch.tensor([1])
    with pytest.raises(ValueError, match="got 0 branches"):
        prior.predict([], timestep)
    with pytest.raises(ValueError, match=r"condition is None, got one of shape \(1, .* leave it"):
        prior.predict([Branch(noisy, text, noisy)], timestep)
    width = prior.size_multiple + 1
    with pytest.raises(ValueError, match=f"multiples of {prior.size_multiple}, got 32 x {width}"):
        prior.encode(images(width=width))
    for prompts, got in (("fog", "'fog'"), ([], r"\[\]")):
        with pytest.raises(ValueError, match=f"at least one string, got {got}"):
            prior.encode_text(prompts)
    with pytest.raises(ValueError, match="one of float32, float16, bfloat16, got float64"):
        priors.load_text_to_image("tiny-text", dtype="float64")


def test_a_sentencepiece_tokenizer_names_the_package_that_it_needs(
    make_text_folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(make_text_folder("pixels"), tmp_path / "copy")
    (copy / "tokenizer" / "tokenizer.json").rename(copy / "tokenizer" / "spiece.model")
    monkeypatch.setattr(deepfloyd_if, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="run `pip install sentencepiece protobuf`"):
        priors.load_text_to_image(copy)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_prior_on_another_device_takes_and_returns_the_callers_tensors(folder, prior, dtype):
    away = priors.load_text_to_image(folder, device="cuda", dtype=dtype)
    noisy, timestep = normal(2, prior.latent_channels, 8, 8), torch.tensor([100, 700])
    exact, estimate = (
        p.predict([Branch(noisy, p.encode_text([PROMPT]))], timestep) for p in (prior, away)
    )
    latent = away.encode(images())
    assert estimate.device == latent.device == away.decode(latent).device == torch.device("cpu")
    assert (estimate - exact).norm() / exact.norm() < 0.1


HEAVY_LIBRARIES = ("diffusers", "transformers")


@pytest.mark.parametrize(
    ("function", "loaded"),
    # The second case shows that the first can fail.
    [("check", []), ("load_text_to_image", list(HEAVY_LIBRARIES))],
)
def test_checking_imports_no_heavy_library(make_text_folder, function, loaded):
    folder = make_text_folder("pixels")
    options = ", kind='text'" * (function == "check")
    program = (
        f"import sys; from csd_nerf import priors; priors.{function}({str(folder)!r}{options}); "
        f"print([m for m in {HEAVY_LIBRARIES} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.decode().strip() == str(loaded)
