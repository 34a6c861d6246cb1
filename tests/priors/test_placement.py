"""Where the parts of a prior lie, and in which precision: offloading, quantising, TF32."""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import diffusers
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from csd_nerf import cli, priors
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions
from csd_nerf.priors.base import Branch
from csd_nerf.priors.halving import HalvingPrior
from csd_nerf.priors.placement import Placement, check_placement

FAMILIES = ("pix2pix", "xl", "flux2", "kontext", "qwen", "latents", "pixels")
CPU, META = torch.device("cpu"), torch.device("meta")
TEXTS = ["make the sphere blue", ""]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def load(editing_folder, make_text_folder):
    """Load a small random model of a family."""

    def load(family: str, **options):
        if family in ("latents", "pixels"):
            return priors.load(make_text_folder(family), kind="text", **options)
        return priors.load(editing_folder(family), **options)

    return load


def picture01() -> torch.Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def questions(prior, text: dict[str, torch.Tensor]) -> tuple[list[Branch], torch.Tensor]:
    """Branches with a text and without, of a picture and its noise."""
    latent, source = prior.encode_source(picture01().to(prior.device))
    noisy = latent + torch.randn(latent.shape, generator=torch.Generator().manual_seed(2)).to(
        latent
    )
    rows = [{name: one[k : k + 1] for name, one in text.items()} for k in range(2)]
    timestep = torch.tensor([400], device=prior.device)
    return [Branch(noisy, {**row, **source}) for row in rows], timestep


def answers(prior) -> list[torch.Tensor]:
    """All that a prior says of a picture."""
    text = prior.encode_text(TEXTS)
    branches, timestep = questions(prior, text)
    latent = branches[0].noisy
    return [*text.values(), prior.predict(branches, timestep), latent, prior.decode(latent)]


def denoiser(prior) -> torch.nn.Module:
    return prior.transformer if hasattr(prior, "transformer") else prior.unet


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offload", ["text", "model"])
def test_offloading_leaves_every_bit_as_it_is(load, family, offload):
    for found, expected in zip(
        answers(load(family, offload=offload)), answers(load(family)), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_s_weights_are_on_the_device_for_its_own_call_only(load, family):
    """A device without storage stands for the GPU: an operation across devices would fail."""
    plain, prior = load(family), load(family, device="meta", offload="model")
    model = denoiser(prior)
    names = {module: name for name, module in model.named_modules()}
    seen: dict[str, list[str]] = {}

    def look(module, *_) -> None:
        if module in names and [*module.parameters(recurse=False)]:
            there = [name for name, weight in model.named_parameters() if weight.device == META]
            seen[names[module]] = there

    branches, timestep = questions(plain, plain.encode_text(TEXTS))
    rows = plain.model_rows(branches[0])
    with register_module_forward_hook(look):
        output = prior.run(branches[0].noisy, timestep, rows)
    assert (prior.device, output.device) == (META, META)
    assert output.shape[2:] == branches[0].noisy.shape[2:]
    for name, there in seen.items():
        own = {f"{name}.{own}" for own, _ in model.get_submodule(name).named_parameters()}
        assert own & {*there}
        # Beside them only those of a module around it.
        assert all(name.startswith(one.rpartition(".")[0]) for one in {*there} - own)
    assert len(seen) > 20
    for (name, weight), (_, expected) in zip(
        model.named_parameters(), denoiser(plain).named_parameters(), strict=True
    ):
        assert weight.device == CPU, name
        assert torch.equal(weight, expected), name


def test_weights_are_back_after_an_error(load):
    prior = load("pix2pix", device="meta", offload="model")
    assert not prior.unet.conv_in.weight.requires_grad
    with pytest.raises(RuntimeError):
        prior.run(
            torch.zeros(1, 4, 8, 8),
            torch.tensor([3]),
            {"text": torch.zeros(1, 24, 31), "condition": torch.zeros(1, 4, 8, 8)},
        )
    assert {weight.device for weight in prior.unet.parameters()} == {CPU}


def test_a_batch_that_is_too_large_is_halved_with_offloading_too(load, monkeypatch):
    prior, plain = load("pix2pix", offload="model"), load("pix2pix")
    branches, timestep = questions(plain, plain.encode_text(TEXTS))
    expected = plain.predict(branches, timestep, max_batch=1)

    def small(module, inputs) -> None:
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    # Deep inside, where layers before it have run.
    prior.unet.mid_block.resnets[0].conv1.register_forward_pre_hook(small)
    halving = HalvingPrior(prior, tell=lambda text: None)
    assert torch.equal(halving.predict(branches, timestep), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_encoder_comes_to_the_device_only_while_it_encodes(load, family, monkeypatch):
    expected = load(family).encode_text(TEXTS)
    moves: list[torch.device] = []

    def to(model, device):
        moves.append(torch.device(device))
        return model

    monkeypatch.setattr(transformers.PreTrainedModel, "to", to)
    load(family, device="meta")
    encoders = 2 if family in ("xl", "kontext") else 1
    assert moves == [META] * encoders
    moves.clear()
    prior = load(family, device="meta", offload="text")
    assert moves == []
    assert {weight.device for weight in denoiser(prior).parameters()} == {META}
    found = prior.encode_text(TEXTS)
    # The second encoder of xl is asked for its states and for its summary.
    assert moves == [META, CPU] * {"xl": 3, "kontext": 2}.get(family, 1)
    assert all(torch.equal(found[name], rows) for name, rows in expected.items())
    moves.clear()
    with pytest.raises(ValueError, match="at least one string"):
        prior.encode_text([])
    # Qwen-Image's looks at the prompts before it moves.
    assert moves == ([] if family == "qwen" else [META, CPU])
    prior.free_text_encoder()
    with pytest.raises(RuntimeError, match="needs the text encoder"):
        prior.encode_text(TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_have_the_prior_s_precision_whatever_the_weights(load, family):
    prior = load(family)
    branches, timestep = questions(prior, prior.encode_text(TEXTS))
    shown: list[torch.Tensor] = []

    def look(module, args, kwargs) -> None:
        own = [*args, *kwargs.values(), *(kwargs.get("added_cond_kwargs") or {}).values()]
        # Positions and timesteps of U-Nets are whole numbers.
        shown.extend(one for one in own if torch.is_tensor(one) and one.is_floating_point())
        raise InterruptedError

    denoiser(prior).register_forward_pre_hook(look, with_kwargs=True)
    # As if the weights, float32, were integers of a model in half precision.
    prior.dtype = torch.bfloat16
    with pytest.raises(InterruptedError):
        prior.predict(branches, timestep)
    # The scale of the distilled guidance, and the positions of a text, are made as float32.
    made = {"kontext": 2}.get(family, 0)
    assert sum(one.dtype == torch.float32 for one in shown) == made
    assert sum(one.dtype == torch.bfloat16 for one in shown) >= 2


REFUSED = [
    ({"offload": "disk"}, r"offload needs one of none, text, model, got disk\."),
    ({"quantize": "2bit"}, r"quantize needs one of none, 8bit, 4bit, got 2bit\."),
    ({"quantize": "8bit"}, r"quantize needs a CUDA device, got 8bit on cpu; take none\."),
    (
        {"quantize": "4bit", "offload": "model", "device": "cuda:1"},
        r"quantize needs weights that stay on the device, got 4bit with offload model; take off",
    ),
]


@pytest.mark.parametrize(("options", "told"), REFUSED)
def test_what_can_not_be_placed_is_refused_before_anything_is_fetched(no_hub, options, told):
    with pytest.raises(ValueError, match=told):
        check_placement(**{"device": "cpu", **options})


def test_loading_and_the_stage_before_a_scene_refuse_it_too(no_hub, empty_cache, capsys, tmp_path):
    told = "quantize needs a CUDA device, got 8bit on cpu"
    with pytest.raises(ValueError, match=told):
        priors.load("instruct-pix2pix", quantize="8bit")
    options = PriorOptions(prior_quantize="8bit")
    prior = LazyPrior(options, kind="edit", device="cpu", command="csd-edit", limit="--n")
    with pytest.raises(MethodError, match=told):
        prior.fetch()
    assert no_hub == []
    Image.new("RGB", (40, 32)).save(tmp_path / "x.png")
    given = ["panorama", str(tmp_path / "x.png"), "--output", str(tmp_path / "y.png")]
    given += ["--prompt", "swap", "--preset", "tiny", "--prior-quantize", "8bit"]
    with pytest.raises(SystemExit):
        cli.main(given)
    assert f"{told}; take none. The options are --prior-offload, --pr" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantising_without_its_packages_says_how_to_get_them():
    told = r"^quantize needs bitsandbytes and accelerate, got 4bit without .*pip install bitsand.*`"
    with pytest.raises(ImportError, match=told):
        check_placement(device="cuda", quantize="4bit", offload="text")
    options = PriorOptions(prior_quantize="4bit", prior_device="cuda:0")
    prior = LazyPrior(options, kind="edit", device="cpu", command="csd-edit", limit="--n")
    with pytest.raises(MethodError, match=told):
        prior.fetch()


@pytest.fixture
def asked(monkeypatch):
    """What `from_pretrained` is asked for, with a module that stands for bitsandbytes."""
    for name in ("bitsandbytes", "accelerate"):
        stub = ModuleType(name)
        stub.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, stub)
    for library in (diffusers, transformers):
        # Both ask for the release of bitsandbytes, which the stub has not.
        monkeypatch.setattr(library.BitsAndBytesConfig, "post_init", lambda self: None)
    found: dict[type, dict] = {}

    def recording(cls):
        original = cls.from_pretrained

        def from_pretrained(folder, **options):
            kept = ("quantization_config", "device_map")
            found[cls] = {name: options.pop(name, None) for name in kept}
            return original(folder, **options)

        monkeypatch.setattr(cls, "from_pretrained", from_pretrained)

    classes = (diffusers.UNet2DConditionModel, diffusers.FluxTransformer2DModel)
    for cls in (*classes, transformers.T5EncoderModel, transformers.CLIPTextModel):
        recording(cls)
    return found


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
@pytest.mark.parametrize("offload", ["none", "text"])
def test_denoiser_and_language_models_are_loaded_quantised(
    asked, editing_folder, monkeypatch, quantize, offload
):
    gpu = torch.device("cuda:1")
    check_placement(device=gpu, quantize=quantize, offload=offload)
    # There is no GPU to move to, and a quantised model must not be moved.
    moved: list[type] = []
    for cls in (diffusers.ModelMixin, transformers.PreTrainedModel):
        monkeypatch.setattr(cls, "to", lambda self, device: moved.append(type(self)) or self)
    prior = Placement(gpu, torch.bfloat16, quantize=quantize, offload=offload)
    folder = editing_folder("kontext")
    prior.denoiser(diffusers.FluxTransformer2DModel, folder / "transformer")
    prior.text_encoder(transformers.T5EncoderModel, folder / "text_encoder_2", large=True)
    prior.text_encoder(transformers.CLIPTextModel, folder / "text_encoder")
    assert not logging.getLogger("bitsandbytes.autograd._functions").isEnabledFor(logging.WARNING)
    both = {diffusers.FluxTransformer2DModel: diffusers}
    if offload == "none":
        both[transformers.T5EncoderModel] = transformers
    for cls, given in asked.items():
        config = given["quantization_config"]
        if cls not in both:
            assert (config, given["device_map"]) == (None, None)
            continue
        assert isinstance(config, both[cls].BitsAndBytesConfig)
        assert given["device_map"] == {"": gpu}
        assert (config.load_in_8bit, config.load_in_4bit) == (
            quantize == "8bit",
            quantize == "4bit",
        )
        if quantize == "4bit":
            assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == (
                "nf4",
                torch.bfloat16,
            )
    assert moved == ([transformers.CLIPTextModel] if offload == "none" else [])


def flags() -> tuple[str, str]:
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
    )


@pytest.fixture
def exact():
    """All products of float32 are exact, until the test ends."""
    before = flags()
    products = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    for product in products:
        product.fp32_precision = "ieee"
    yield flags()
    for product, value in zip(products, before, strict=True):
        product.fp32_precision = value


@pytest.mark.parametrize("family", ["pix2pix", "flux2", "kontext"])
def test_tf32_is_allowed_inside_the_networks_only(load, exact, family, monkeypatch):
    prior = load(family)
    branches, timestep = questions(prior, prior.encode_text(TEXTS))
    inside: list[tuple[str, str]] = []
    converted: list[tuple[str, str]] = []
    original = prior.noise_of
    monkeypatch.setattr(
        prior, "noise_of", lambda *given: converted.append(flags()) or original(*given)
    )
    for part in (denoiser(prior), prior._vae.encoder, prior._vae.decoder):
        part.register_forward_pre_hook(lambda *_: inside.append(flags()))
    for ask in (
        lambda: prior.predict(branches, timestep),
        lambda: prior.encode(picture01()),
        lambda: prior.decode(branches[0].noisy),
    ):
        ask()
        assert inside.pop() == ("tf32", "tf32")
        assert flags() == exact
    assert converted == [exact]


@pytest.mark.parametrize("part", ["denoiser", "encoder", "decoder"])
def test_tf32_ends_with_an_error(load, exact, part):
    prior = load("pix2pix")
    branches, timestep = questions(prior, prior.encode_text(TEXTS))

    def fail(*_) -> None:
        assert flags() == ("tf32", "tf32")
        raise InterruptedError

    {"denoiser": prior.unet, "encoder": prior._vae.encoder, "decoder": prior._vae.decoder}[
        part
    ].register_forward_pre_hook(fail)
    with pytest.raises(InterruptedError):
        {
            "denoiser": lambda: prior.predict(branches, timestep),
            "encoder": lambda: prior.encode(picture01()),
            "decoder": lambda: prior.decode(branches[0].noisy),
        }[part]()
    assert flags() == exact


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offload", ["text", "model"])
def test_offloading_from_a_gpu_frees_its_memory_with_the_same_result(load, family, offload):
    torch.cuda.empty_cache()
    memory = torch.cuda.memory_allocated()
    plain = load(family, device="cuda", dtype="auto")
    used = torch.cuda.memory_allocated() - memory
    expected = [one.cpu() for one in answers(plain)]
    del plain
    memory = torch.cuda.memory_allocated()
    prior = load(family, device="cuda", dtype="auto", offload=offload)
    assert torch.cuda.memory_allocated() - memory < used
    weights = next(denoiser(prior).parameters())
    assert (weights.device.type, weights.is_pinned()) == (
        ("cpu", True) if offload == "model" else ("cuda", False)
    )
    for found, one in zip(answers(prior), expected, strict=True):
        torch.testing.assert_close(found.cpu(), one)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantised_prior_is_close_to_itself(load, family, quantize):
    plain = answers(load(family, device="cuda", dtype="auto"))
    prior = load(family, device="cuda", dtype="auto", quantize=quantize)
    names = {type(module).__name__ for module in denoiser(prior).modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantize] in names
    found = answers(prior)[-3]
    assert 0 < float((found - plain[-3]).abs().mean() / plain[-3].abs().mean()) < 0.5
