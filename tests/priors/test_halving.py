from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from csd_nerf.priors.base import Branch, Prior
from csd_nerf.priors.halving import HalvingPrior, is_out_of_memory

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 123 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(CPU_MESSAGE),
    RuntimeError("not enough memory: you tried to allocate 123 bytes."),
]


class Narrow:
    """A prior whose memory holds `room` rows; each result tells its input row."""

    name = "narrow"
    device = torch.device("cpu")
    schedule = None
    latent_channels = 1
    cell_size = 4
    preferred_size = 64
    size_multiple = 16
    source_rows = ("condition", "reference")
    secret = "kept"

    def __init__(self, room: int, error: BaseException = ERRORS[0]) -> None:
        self.room = room
        self.error = error
        self.sizes: list[int] = []

    def _take(self, rows: int) -> None:
        self.sizes.append(rows)
        if rows > self.room:
            raise self.error

    def encode(self, image01):
        self._take(len(image01))
        return image01 + 1

    decode = encode

    def encoding_tiles(self, sample01):
        self._take(len(sample01))
        return nullcontext()

    decoding_tiles = encoding_tiles

    def encode_source(self, image01):
        return self.encode(image01), {"condition": image01 * 2, "reference": image01 * 3}

    def encode_text(self, prompts, image_rows=None):
        return {
            "text": torch.full(
                (len(prompts),), 0.0 if image_rows is None else len(image_rows["picture"])
            )
        }

    def free_text_encoder(self):
        self.freed = True

    def predict(self, branches, timestep, *, max_batch=None):
        noisy = torch.cat(
            [b.noisy if b.particles is None else b.noisy[b.particles] for b in branches]
        )
        for part in noisy.split(max_batch or len(noisy)):
            self._take(len(part))
        return torch.stack([branch.noisy for branch in branches]) * 3


def images(n: int) -> torch.Tensor:
    return torch.arange(n).float().view(n, 1, 1, 1).expand(n, 3, 2, 2)


def branches(n: int, k: int) -> list[Branch]:
    return [Branch(images(n) + 100 * i) for i in range(k)]


def test_it_is_a_prior_with_the_prior_s_own_attributes():
    halving = HalvingPrior(Narrow(9))
    assert isinstance(halving, Prior)
    assert (halving.name, halving.cell_size, halving.secret) == ("narrow", 4, "kept")
    assert halving.source_rows == ("condition", "reference")
    assert halving.encode_text(["fog"], {"picture": images(5)})["text"].tolist() == [5]
    halving.free_text_encoder()
    assert halving.freed
    with pytest.raises(AttributeError, match="missing"):
        _ = halving.missing


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "windows"])
@pytest.mark.parametrize("method", ["encode", "decode"])
def test_images_go_in_halves_until_they_fit(method, error):
    prior, told = Narrow(2, error), []
    halving = HalvingPrior(prior, tell=told.append)
    assert torch.equal(getattr(halving, method)(images(9)), images(9) + 1)
    assert prior.sizes == [9, 4, 2, 2, 2, 2, 1]
    assert len(told) == 1
    assert "not enough for 9 images" in told[0]
    assert "from now on it is 2." in told[0]
    assert "--" not in told[0]


def test_latents_and_rows_of_a_source_come_back_in_order():
    prior = Narrow(2)
    halving = HalvingPrior(prior, tell=lambda _: None)
    latent, rows = halving.encode_source(images(5))
    assert torch.equal(latent, images(5) + 1)
    assert torch.equal(rows.pop("condition"), images(5) * 2)
    assert torch.equal(rows.pop("reference"), images(5) * 3)
    assert not rows
    assert prior.sizes == [5, 2, 2, 1]


def test_what_fitted_is_remembered_and_not_told_again():
    prior, told = Narrow(5), []
    halving = HalvingPrior(prior, tell=told.append)
    halving.predict(branches(4, 5), torch.zeros(4))
    assert prior.sizes == [20, 10, 5, 5, 5, 5]
    prior.sizes.clear()
    estimates = halving.predict(branches(4, 5), torch.zeros(4), max_batch=12)
    assert torch.equal(estimates[4, 3], images(4)[3] * 3 + 1200)
    assert prior.sizes == [5, 5, 5, 5]
    assert len(told) == 1


def test_a_prediction_counts_the_particles_that_are_evaluated():
    prior = Narrow(3)
    only = Branch(images(4), particles=torch.tensor([1]))
    HalvingPrior(prior, tell=lambda _: None).predict([only, *branches(4, 1)], torch.zeros(4))
    assert prior.sizes == [5, 2, 2, 1]


def test_a_limit_holds_from_the_first_call():
    prior = Narrow(9)
    halving = HalvingPrior(prior, max_batch=4, tell=pytest.fail)
    halving.encode(images(6))
    halving.predict(branches(3, 2), torch.zeros(3))
    halving.predict(branches(3, 2), torch.zeros(3), max_batch=3)
    assert prior.sizes == [4, 2, 4, 2, 3, 3]


def test_when_one_does_not_fit_what_helps_is_named():
    halving = HalvingPrior(Narrow(0), tell=pytest.fail)
    for call in (
        lambda: halving.decode(images(3)),
        lambda: halving.predict(branches(3, 5), torch.zeros(3)),
    ):
        with pytest.raises(MemoryError, match="lower the size or the batch, or compute in half"):
            call()


def test_another_error_is_not_swallowed():
    prior = Narrow(2, RuntimeError("shapes don't match"))
    with pytest.raises(RuntimeError, match="shapes don't match"):
        HalvingPrior(prior).encode(images(3))
    assert prior.sizes == [3]


def test_torch_s_own_error_on_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes don't match"))
    assert is_out_of_memory(MemoryError())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_s_own_error_on_a_gpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("method", ["encoding_tiles", "decoding_tiles"])
def test_a_sample_of_tiles_is_thinned_out_until_it_fits(method):
    prior, told = Narrow(3), []
    with getattr(HalvingPrior(prior, tell=told.append), method)(images(8)):
        assert prior.sizes == [8, 4, 2]
    assert "tiles of a sample" in told[0]
    with pytest.raises(MemoryError, match="one at a time of the tiles of a sample"):
        getattr(HalvingPrior(Narrow(0)), method)(images(8))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    ],
)
def test_failed_allocations_of_libraries_count_as_out_of_memory(text):
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "text", ["CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", "cuDNN error: CUDNN_STATUS_BAD_PARAM"]
)
def test_other_faults_of_libraries_do_not(text):
    assert not is_out_of_memory(RuntimeError(text))
