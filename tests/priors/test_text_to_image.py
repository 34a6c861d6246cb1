"""Text-to-image priors: what they encode, predict and refuse; see test_text_sampling for images."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import sentencepiece
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
def prior(folder) -> priors.Prior:
    return priors.load(folder, kind="text")


@pytest.fixture(scope="module")
def pixels(make_text_folder) -> priors.Prior:
    return priors.load(make_text_folder("pixels"), kind="text")


@pytest.fixture
def latents(make_text_folder) -> priors.Prior:
    return priors.load(make_text_folder("latents"), kind="text")


def images(n: int = 1, *, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(7))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_it_is_a_prior_that_sees_no_source_image(prior):
    assert isinstance(prior, priors.Prior)
    assert prior.source_rows == ()
    latent, rows = prior.encode_source(images(2))
    assert torch.equal(latent, prior.encode(images(2)))
    assert rows == {}


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
    texts = prior.encode_text([PROMPT])
    estimate = prior.predict([Branch(latent, texts)], torch.tensor([300]))
    for tensor in (texts["text"], estimate, prior.decode(latent)):
        assert not tensor.requires_grad
        assert not tensor.is_inference()
    latent.square().sum().backward()
    assert image01.grad.abs().sum() > 0
    modules = [prior.unet, prior._texts._model, *([prior._vae] if prior.cell_size > 1 else [])]
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
    prior = priors.load(folder, kind="text")
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
            z, text = branch.noisy[i : i + 1], branch.rows["text"][i * k][None]
            with torch.no_grad():
                output = unet(z, t, text)[0][0, : prior.latent_channels].double()
            if prediction_type == "v_prediction":
                output = squares[t] ** 0.5 * output + (1 - squares[t]) ** 0.5 * z[0].double()
            expected[k, i] = output
    for max_batch in (None, 4):
        estimates = prior.predict(branches, timestep, max_batch=max_batch)
        assert estimates.dtype == torch.float32
        torch.testing.assert_close(estimates, expected, atol=1e-4, rtol=1e-4)


def test_a_branch_is_evaluated_for_the_particles_that_it_names(prior):
    noisy, text = normal(3, prior.latent_channels, 8, 8), prior.encode_text([PROMPT])
    timestep = torch.tensor([20, 499, 981])
    whole = prior.predict([Branch(noisy, text)], timestep)[0]
    some = prior.predict([Branch(noisy, text, torch.tensor([2, 0]))], timestep)[0]
    torch.testing.assert_close(some[[0, 2]], whole[[0, 2]], atol=1e-5, rtol=1e-4)
    assert not some[1].any()


def test_texts_are_t5s_last_states_over_unpadded_tokens(make_text_folder, pixels):
    folder = make_text_folder("pixels")
    tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer")
    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder")
    texts = pixels.encode_text(["", f"  {PROMPT.upper()}\n"])["text"]
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
    prompts = ("", PROMPT)
    for row, prompt in zip(latents.encode_text(prompts)["text"], prompts, strict=True):
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
    first, second = prior.encode_text([PROMPT, "fog"])["text"]
    noisy, timestep = normal(1, prior.latent_channels, 8, 8), torch.tensor([500])
    mixed = [torch.lerp(first, second, w)[None] for w in (0.0, 0.5, 1.0)]
    shown = [Branch(noisy, {"text": text}) for text in mixed]
    start, middle, end = prior.predict(shown, timestep)
    alone = prior.predict([Branch(noisy, prior.encode_text([PROMPT]))], timestep)[0]
    torch.testing.assert_close(start, alone, atol=1e-5, rtol=1e-4)
    assert (middle - start).abs().max() > 1e-3
    assert (middle - end).abs().max() > 1e-3


def test_the_text_encoder_can_be_dropped_once_texts_are_encoded(folder):
    prior = priors.load(folder, kind="text")
    text = prior.encode_text([PROMPT])
    encoder = weakref.ref(prior._texts._model)
    prior.free_text_encoder()
    gc.collect()
    assert encoder() is None
    with pytest.raises(RuntimeError, match=r"has freed: encode all texts before .*load") as error:
        prior.encode_text([PROMPT])
    assert "\n" not in str(error.value)
    noisy = normal(1, prior.latent_channels, 8, 8)
    assert prior.predict([Branch(noisy, text)], torch.tensor([1])).isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_half_precision_is_close_and_returns_float32(folder, prior, dtype, tolerance):
    half = priors.load(folder, kind="text", dtype=dtype)
    noisy, timestep = normal(2, prior.latent_channels, 8, 8), torch.tensor([100, 700])
    exact, rough = (
        p.predict([Branch(noisy, p.encode_text([PROMPT]))], timestep) for p in (prior, half)
    )
    latent = half.encode(images())
    assert {rough.dtype, latent.dtype, half.decode(latent).dtype} == {torch.float32}
    assert half.encode_text(["fog"])["text"].dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < tolerance


def change_unet(folder: Path, tmp_path: Path, **changes) -> Path:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = {**UNet2DConditionModel.load_config(folder / "unet"), **changes}
    UNet2DConditionModel.from_config(config).save_pretrained(copy / "unet")
    return copy


@pytest.mark.parametrize(
    ("model", "channels", "told"),
    [
        ("pixels", 6, "pixel-space U-Net takes 3 channels, that of .* takes 6: name another"),
        (
            "latents",
            8,
            r"4 input channels \(latent\) to be one of StableDiffusion, got 8: name",
        ),
    ],
)
def test_u_nets_with_other_inputs_are_refused(make_text_folder, tmp_path, model, channels, told):
    other = change_unet(make_text_folder(model), tmp_path, in_channels=channels)
    with pytest.raises(ValueError, match=told):
        priors.load(other, kind="text")


def test_other_predictions_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "sample"}))
    with pytest.raises(ValueError, match="epsilon, v_prediction, got 'sample'"):
        priors.load(copy, kind="text")


def test_bad_arguments_are_named(prior):
    noisy, text = normal(1, prior.latent_channels, 8, 8), prior.encode_text([""])
    timestep = torch.tensor([1])
    with pytest.raises(ValueError, match="got 0 branches"):
        prior.predict([], timestep)
    with pytest.raises(ValueError, match="takes the rows text, got condition too: leave them out"):
        prior.predict([Branch(noisy, {**text, "condition": noisy})], timestep)
    width = prior.size_multiple + 1
    with pytest.raises(ValueError, match=f"multiples of {prior.size_multiple}, got 32 x {width}"):
        prior.encode(images(width=width))
    for prompts, got in (("fog", "'fog'"), ([], r"\[\]")):
        with pytest.raises(ValueError, match=f"at least one string, got {got}"):
            prior.encode_text(prompts)
    with pytest.raises(ValueError, match="one of auto, float32, float16, bfloat16, got float64"):
        priors.load("tiny-text", kind="text", dtype="float64")


def test_a_sentencepiece_tokenizer_names_the_package_that_it_needs(
    make_text_folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(make_text_folder("pixels"), tmp_path / "copy")
    (copy / "tokenizer" / "tokenizer.json").rename(copy / "tokenizer" / "spiece.model")
    monkeypatch.setattr(deepfloyd_if, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="run `pip install sentencepiece`"):
        priors.load(copy, kind="text")


def test_a_sentencepiece_model_alone_gives_its_own_tokens(make_text_folder, tmp_path):
    """DeepFloyd ships no other; nerfstudio's protobuf keeps transformers from reading it."""
    copy = shutil.copytree(make_text_folder("pixels"), tmp_path / "copy")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    model = copy / "tokenizer" / "spiece.model"
    texts = ["a red cube on a table", "a green cone", "a blue sphere of glass", "a yellow cylinder"]
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts * 20),
            model_writer=file,
            vocab_size=30,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
        )
    tokenizer = deepfloyd_if._load_tokenizer(copy / "tokenizer")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in (*texts, "a  blue\u00a0cone", "\uff41 red cone", "a purple zebra"):
        assert tokenizer(text).input_ids == [*processor.encode(text), 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_prior_on_another_device_takes_and_returns_the_callers_tensors(folder, prior, dtype):
    away = priors.load(folder, kind="text", device="cuda", dtype=dtype)
    noisy, timestep = normal(2, prior.latent_channels, 8, 8), torch.tensor([100, 700])
    exact, estimate = (
        p.predict([Branch(noisy, p.encode_text([PROMPT]))], timestep) for p in (prior, away)
    )
    latent = away.encode(images())
    assert estimate.device == latent.device == away.decode(latent).device == torch.device("cpu")
    assert (estimate - exact).norm() / exact.norm() < 0.1


HEAVY_LIBRARIES = ("diffusers", "transformers")


def test_fetching_imports_no_heavy_library(make_text_folder):
    """With what shows that the check can fail, in one process, since one takes a while to start."""
    folder = make_text_folder("pixels")
    program = "import sys; from csd_nerf import priors\n" + "".join(
        f"priors.{function}({str(folder)!r}, kind='text')\n"
        f"print([m for m in {HEAVY_LIBRARIES} if m in sys.modules])\n"
        for function in ("fetch", "load")
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["[]", str([*HEAVY_LIBRARIES])]
