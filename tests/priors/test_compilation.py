"""Compiled priors: what is compiled, in which shapes, and what happens where it fails."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from csd_nerf import priors
from csd_nerf.core.schedules import FlowSchedule
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions
from csd_nerf.methods.csd_dreamfusion.config import csd_dreamfusion, csd_dreamfusion_tiny
from csd_nerf.methods.csd_edit.config import csd_edit, csd_edit_small, csd_edit_tiny
from csd_nerf.methods.csd_edit_splat.config import csd_edit_splat, csd_edit_splat_tiny
from csd_nerf.priors.base import Branch
from csd_nerf.priors.compilation import MOST_SHAPES, Compilation, compile_choice, padded
from csd_nerf.priors.family import DiffusersPrior
from csd_nerf.priors.halving import HalvingPrior

FAMILIES = ("pix2pix", "xl", "flux2", "kontext", "qwen", "latents", "pixels")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class RowsPrior(DiffusersPrior):
    """Estimates what it is given, and notes the rows of each call."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.rows: list[int] = []

    def encode(self, image01):
        return image01

    def run(self, noisy, timestep, rows):
        self.rows.append(len(noisy))
        return noisy

    def noise_of(self, output, noisy, timestep):
        return output


@pytest.fixture(scope="module")
def load(editing_folder, make_text_folder):
    def load(family: str, **options):
        if family in ("latents", "pixels"):
            return priors.load(make_text_folder(family), kind="text", **options)
        return priors.load(editing_folder(family), **options)

    return load


@pytest.fixture
def compiled(monkeypatch) -> list[tuple[nn.Module, dict, list[int]]]:
    """In place of `torch.compile`: networks as they are, with their options and batches."""
    found: list[tuple[nn.Module, dict, list[int]]] = []

    def compile(network, **options):
        batches: list[int] = []
        found.append((network, options, batches))

        def call(*inputs, **named):
            first = inputs[0] if inputs else named["hidden_states"]
            batches.append(len(first))
            return network(*inputs, **named)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    return found


def branches_for(prior, particles: int) -> tuple[list[Branch], torch.Tensor]:
    """Two branches for particles that all differ, at timesteps of their own."""
    generator = torch.Generator().manual_seed(particles)
    image01 = torch.rand(particles, 3, 64, 64, generator=generator)
    latent, source = prior.encode_source(image01)
    noisy = latent + torch.randn(latent.shape, generator=generator)
    rows = {**prior.encode_text(["make it night"], source if "picture" in source else None)}
    timestep = torch.arange(particles) * 50 + 100
    return [Branch(noisy, {**rows, **source}), Branch(noisy.flip(3), {**rows, **source})], timestep


def denoiser(prior) -> nn.Module:
    return prior.transformer if hasattr(prior, "transformer") else prior.unet


@pytest.mark.parametrize("family", FAMILIES)
def test_the_denoiser_of_every_family_is_compiled_for_one_batch(load, compiled, family):
    plain, told = load(family), []
    prior = load(family, compile="on", tell=told.append)
    branches, timestep = branches_for(plain, 4)
    found = prior.predict(branches, timestep, max_batch=3)
    ((network, options, batches),) = compiled
    assert network is denoiser(prior)
    assert options == {"dynamic": False, "mode": None}
    # Eight evaluations: the last call is filled up.
    assert batches == [3, 3, 3]
    assert torch.allclose(found, plain.predict(branches, timestep, max_batch=3), atol=1e-5)
    name = type(network).__name__
    assert told == [f"{name} was compiled for calls of 3 evaluations in 0 s."]


def test_without_compilation_nothing_is_compiled_or_padded(load, compiled):
    prior, batches = load("pix2pix"), []
    denoiser(prior).register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    branches, timestep = branches_for(prior, 4)
    prior.predict(branches, timestep, max_batch=3)
    assert (compiled, batches) == ([], [3, 3, 2])


def test_a_batch_is_padded_to_the_smallest_known_that_adds_a_quarter_at_most(load, compiled):
    plain, prior = load("pix2pix"), load("pix2pix", compile="on", tell=lambda text: None)
    asked = ((5, None), (4, None), (3, None), (2, None), (3, 5), (4, 8), (4, 9))
    for particles, limit in asked:
        branches, timestep = branches_for(plain, particles)
        found = prior.predict(branches, timestep, max_batch=limit)
        assert torch.allclose(found, plain.predict(branches, timestep), atol=1e-5)
    # Six are far below ten; eight may be ten, unless a limit forbids it. Six at a limit of five
    # are two calls of three, for which four are too many.
    assert compiled[0][2] == [10, 10, 6, 4, 3, 3, 8, 8]


def test_evaluations_are_spread_evenly_over_calls():
    """Half of 48 in each of two calls, though 80 came before in calls of 40."""
    prior = RowsPrior("rows", CPU, FlowSchedule())
    prior.compile(tell=lambda text: None)
    for evaluations in (80, 48, 40, 36, 47):
        noisy = torch.arange(evaluations * 1.0).view(-1, 1, 1, 1)
        found = prior.predict([Branch(noisy, {})], torch.zeros(evaluations), max_batch=40)
        assert torch.equal(found[0], noisy)
    assert prior.rows == [40, 40, 24, 24, 40, 40, 24, 24]


def test_padding_ends_where_compiling_does():
    compilation = Compilation(device=CPU)
    sizes = [2**number for number in range(MOST_SHAPES)]
    assert [compilation.batch("kind", size, limit=None) for size in sizes] == sizes
    assert compilation.batch("kind", 1000, limit=None) == 1000
    assert compilation.batch("kind", 900, limit=None) == 900
    assert compilation.batch("kind", 110, limit=None) == 128
    assert compilation.batch("other", 110, limit=None) == 110


def test_padding_repeats_the_last_row():
    rows = torch.arange(6).view(3, 2)
    assert padded(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded(rows, 3) is rows
    assert padded(rows, 0) is rows


def test_dynamo_s_graph_of_a_prior_is_the_prior(load, monkeypatch):
    """Traced as it would be on a GPU, and then run without a compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    told: list[str] = []
    plain, prior = load("pix2pix"), load("pix2pix", compile="on", tell=told.append)
    branches, timestep = branches_for(plain, 2)
    for _ in range(2):
        assert torch.equal(prior.predict(branches, timestep), plain.predict(branches, timestep))
    assert len(told) == 1
    assert told[0].startswith("UNet2DConditionModel was compiled for calls of 4 evaluations in ")


def test_where_compiling_fails_the_prior_runs_and_says_why_once(load, monkeypatch):
    asked, told = [], []

    def failing(network, **options):
        asked.append(network)

        def call(*inputs, **named):
            raise RuntimeError("Failed to find C compiler. Please specify.\nSet TORCHDYNAMO_...")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    plain, prior = load("pix2pix"), load("pix2pix", compile="on", tell=told.append)
    branches, timestep = branches_for(plain, 4)
    batches = []
    denoiser(prior).register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    for _ in range(2):
        # The second time nothing is padded any more.
        found = prior.predict(branches, timestep, max_batch=3)
        assert torch.allclose(found, plain.predict(branches, timestep), atol=1e-5)
    assert len(asked) == 1
    assert batches == [3, 3, 3, 3, 3, 2]
    assert told == [
        "The model runs without compilation, which failed: RuntimeError: Failed to find C "
        "compiler. Please specify."
    ]


def test_an_error_of_the_inputs_is_not_taken_for_one_of_the_compiler(load, compiled):
    told: list[str] = []
    prior = load("pix2pix", compile="on", tell=told.append)
    (branch, _), timestep = branches_for(prior, 1)
    wrong = Branch(branch.noisy, {**branch.rows, "text": torch.zeros(1, 24, 31)})
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        prior.predict([wrong], timestep)
    prior.predict([branch], timestep)
    assert len(told) == 1
    assert "was compiled" in told[0]


def wrapped_error(batch: int) -> None:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    except torch.OutOfMemoryError as error:
        raise RuntimeError("backend='inductor' raised:") from error


@pytest.mark.parametrize("in_compiler", [True, False])
def test_a_compiled_batch_that_is_too_large_is_halved(load, monkeypatch, in_compiler):
    batches, told = [], []

    def compile(network, **options):
        def call(image, *inputs, **named):
            batches.append(len(image))
            if len(image) > 2:
                if in_compiler:
                    wrapped_error(len(image))
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return network(image, *inputs, **named)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    plain, prior = load("pix2pix"), load("pix2pix", compile="on", tell=told.append)
    halving = HalvingPrior(prior, tell=lambda text: None)
    branches, timestep = branches_for(plain, 3)
    for _ in range(2):
        found = halving.predict(branches, timestep)
        assert torch.allclose(found, plain.predict(branches, timestep), atol=1e-5)
    assert batches == [6, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert not any("failed" in text for text in told)


def test_what_a_graph_returns_is_kept_before_it_runs_again(load, monkeypatch):
    """CUDA graphs write every result to the same place."""
    events, place = [], {}

    def compile(network, **options):
        assert options == {"dynamic": False, "mode": "reduce-overhead"}

        def call(*inputs, **named):
            events.append("call")
            (result,) = network(*inputs, **named)
            return (place.setdefault(result.shape, torch.empty_like(result)).copy_(result),)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: events.append("begin"))
    plain, prior = load("pix2pix"), load("pix2pix", compile="graphs", tell=lambda text: None)
    branches, timestep = branches_for(plain, 2)
    found = prior.predict(branches, timestep, max_batch=2)
    assert torch.allclose(found, plain.predict(branches, timestep), atol=1e-5)
    assert events == ["begin", "call"] * 2


def test_on_a_gpu_weights_are_channels_last(compiled):
    for device, last in ((GPU, True), (CPU, False)):
        network = nn.Conv2d(4, 8, 3)
        Compilation(device=device, tell=lambda text: None).call(network, torch.zeros(1, 4, 5, 5))
        assert network.weight.is_contiguous(memory_format=torch.channels_last) == last


def test_many_shapes_are_not_compiled_without_end(compiled):
    told: list[str] = []
    compilation = Compilation(device=CPU, tell=told.append)
    network = nn.Linear(3, 3)
    for count in range(1, MOST_SHAPES + 3):
        assert len(compilation.call(network, torch.zeros(count, 3))) == count
    assert compiled[0][2] == [*range(1, MOST_SHAPES + 1)]
    assert len(told) == MOST_SHAPES


def test_the_network_beside_the_u_net_is_compiled_too(control_folders, compiled):
    base, net = control_folders
    prior = priors.load(
        base, kind="text", control="canny", control_model=str(net), compile="on", tell=[].append
    )
    branches, timestep = branches_for(prior, 1)
    prior.predict(branches, timestep)
    assert {type(network).__name__ for network, _, _ in compiled} == {
        "UNet2DConditionModel",
        "ControlNetModel",
    }


@pytest.mark.parametrize(
    ("compile", "device", "offload", "quantize", "chosen"),
    [
        ("auto", "cuda:1", "none", "none", "on"),
        ("auto", "cpu", "none", "none", "off"),
        ("auto", "cuda", "text", "none", "off"),
        ("auto", "cuda", "model", "none", "off"),
        ("auto", "cuda", "none", "8bit", "off"),
        ("on", "cpu", "text", "none", "on"),
        ("graphs", "cuda", "none", "none", "graphs"),
        ("off", "cuda", "none", "none", "off"),
        ("off", "cuda", "model", "4bit", "off"),
    ],
)
def test_auto_compiles_on_a_gpu_what_stays_there(compile, device, offload, quantize, chosen):
    where = torch.device(device)
    assert compile_choice(compile, device=where, offload=offload, quantize=quantize) == chosen


def test_what_can_not_be_compiled_is_refused_before_anything_is_fetched(no_hub):
    told = "compile needs weights that stay on the device as they are, got on with offload model"
    with pytest.raises(ValueError, match=told):
        priors.load("instruct-pix2pix", offload="model", compile="on")
    options = PriorOptions(prior_offload="model", prior_compile="on")
    prior = LazyPrior(options, kind="edit", device="cpu", command="csd-edit", limit="--n")
    with pytest.raises(MethodError, match=told):
        prior.fetch()
    with pytest.raises(ValueError, match="compile needs one of auto, on, graphs, off, got yes"):
        priors.check_placement(device="cpu", compile="yes")
    assert no_hub == []


def test_scenes_tell_of_the_compilation_and_not_as_a_notice(editing_folder, compiled, capsys):
    options = PriorOptions(prior=str(editing_folder("pix2pix")), prior_compile="on")
    lazy = LazyPrior(options, kind="edit", device="cpu", command="csd-edit", limit="--n")
    prior = lazy.get()
    prior.predict(*branches_for(prior, 1))
    told = " ".join(capsys.readouterr().out.split())
    assert told == (
        "csd-edit: UNet2DConditionModel was compiled for calls of 2 evaluations in 0 s."
    )
    assert lazy.notices == []


def test_full_presets_compile_on_a_gpu_and_tiny_ones_never():
    full = (csd_edit, csd_edit_small, csd_edit_splat, csd_dreamfusion)
    assert {method.config.pipeline.prior_compile for method in full} == {"auto"}
    tiny = (csd_edit_tiny, csd_edit_splat_tiny, csd_dreamfusion_tiny)
    assert {method.config.pipeline.prior_compile for method in tiny} == {"off"}
