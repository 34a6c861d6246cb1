"""What happens when weights are not there: one line, at once, that says how to get them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline

from csd_nerf import priors
from csd_nerf.priors import WeightsNotFoundError, weights

REPO = "someone/some-model"
FETCH = r"`hf download timbrooks/instruct-pix2pix --include \"\*/\*\"`"


def put_into_cache(folder: Path, cache: Path, repo: str) -> Path:
    """Lay a pipeline's folder out as the hub's client does."""
    store = cache / f"models--{repo.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("abc123")
    return shutil.copytree(folder, store / "snapshots" / "abc123")


@pytest.mark.parametrize("attempt", [priors.check, priors.fetch, priors.load])
def test_an_unreachable_hub_ends_in_one_line_after_one_request(attempt, empty_cache, no_hub):
    with pytest.raises(WeightsNotFoundError, match=FETCH) as error:
        attempt("instruct-pix2pix")
    message = str(error.value)
    assert "\n" not in message
    assert "the prior 'timbrooks/instruct-pix2pix'" in message
    assert "--pipeline.prior DIR (--prior DIR)" in message
    assert isinstance(error.value, OSError)
    assert len(no_hub) == 1
    assert no_hub[0]["timeout"] <= 10


def test_offline_a_fresh_process_fails_at_once(tmp_path):
    program = (
        "import sys; from csd_nerf import priors\n"
        "try: priors.load('instruct-pix2pix')\n"
        "except priors.WeightsNotFoundError as error: sys.exit(str(error))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "OfflineModeIsEnabled" in run.stderr


def open_hub(monkeypatch, folder: Path) -> None:
    """A hub that answers with a folder's files."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "model_info",
        lambda _, repo, timeout: huggingface_hub.ModelInfo(
            id=repo, siblings=[{"rfilename": file} for file in files]
        ),
    )


def test_the_hubs_listing_is_enough_for_the_check(folder, tmp_path, empty_cache, monkeypatch):
    open_hub(monkeypatch, folder)
    priors.check(REPO)
    with pytest.raises(WeightsNotFoundError, match=r"repository lacks unet/.*\.fp16\.safetensors"):
        priors.check(REPO, variant="fp16")
    open_hub(monkeypatch, tmp_path)
    with pytest.raises(WeightsNotFoundError, match=r"repository lacks unet/config\.json, .*vae/"):
        priors.load(REPO)


def test_cached_weights_need_no_hub(folder, empty_cache, no_hub):
    snapshot = put_into_cache(folder, empty_cache, REPO)
    priors.check(REPO)
    assert priors.fetch(REPO) == snapshot
    assert priors.load(REPO).name == REPO
    assert no_hub == []


def test_an_incomplete_cache_is_not_enough(folder, empty_cache, no_hub):
    snapshot = put_into_cache(folder, empty_cache, REPO)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsNotFoundError, match=f"hf download {REPO} "):
        priors.check(REPO)


def test_a_download_leaves_out_the_safety_checker(folder, empty_cache, monkeypatch):
    requests = []

    def download(repo, **options):
        requests.append((repo, options))
        return str(folder)

    open_hub(monkeypatch, folder)
    monkeypatch.setattr(StableDiffusionInstructPix2PixPipeline, "download", download)
    assert priors.fetch(REPO, variant=None) == folder
    [(repo, options)] = requests
    assert repo == REPO
    assert options == {"variant": None, "safety_checker": None, "feature_extractor": None}


def test_a_broken_download_ends_in_one_line(folder, empty_cache, monkeypatch):
    def download(repo, **options):
        raise ConnectionError("reset by peer")

    open_hub(monkeypatch, folder)
    monkeypatch.setattr(StableDiffusionInstructPix2PixPipeline, "download", download)
    with pytest.raises(WeightsNotFoundError, match=r"download failed \(ConnectionError\)"):
        priors.fetch(REPO)


def test_a_folder_that_is_not_there(tmp_path):
    for name in (tmp_path / "absent", str(tmp_path / "absent"), "absent"):
        with pytest.raises(WeightsNotFoundError, match=f"absent does not exist; .*{FETCH}"):
            priors.check(name)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("unet/config.json", "unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors"),
        ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
    ],
)
def test_an_incomplete_folder_names_the_missing_part(folder, tmp_path, file, named):
    copy = shutil.copytree(folder, tmp_path / "copy")
    priors.check(copy)
    (copy / file).unlink()
    for attempt in (priors.check, priors.load):
        with pytest.raises(WeightsNotFoundError, match=f"copy lacks {named}; ") as error:
            attempt(copy)
        assert "\n" not in str(error.value)


def test_files_of_other_releases_count():
    files = {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/config.json",
        "text_encoder/pytorch_model.bin",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }
    assert weights.missing_files(files) == []
    for file in files:
        assert len(weights.missing_files(files - {file})) == 1


def test_a_variant_is_loaded_and_named_where_it_is_missing(folder, tmp_path):
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()

    prior = priors.load(tmp_path, variant="fp16", dtype="float16")
    expected = priors.load(folder, dtype="float16")
    image01 = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(prior.encode(image01), expected.encode(image01))
    torch.testing.assert_close(prior.encode_text(["fog"]), expected.encode_text(["fog"]))

    with pytest.raises(WeightsNotFoundError, match=r"safetensors \(it has the variant fp16\)"):
        priors.check(tmp_path)
    with pytest.raises(WeightsNotFoundError, match=r"lacks unet/diffusion_pytorch_model\.ema\."):
        priors.check(tmp_path, variant="ema")


def test_a_missing_bundled_prior_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(
        WeightsNotFoundError, match=r"bundled prior 'tiny' .* install csd_nerf again"
    ):
        priors.check("tiny")


def test_the_bundled_prior_lies_in_the_package(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path / package)
    bundled = shutil.copytree(folder, tmp_path / "csd_nerf" / "assets" / "tiny")
    assert priors.fetch("tiny") == bundled
