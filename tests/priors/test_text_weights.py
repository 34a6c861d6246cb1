"""Which files a text-to-image prior needs, and what is said when they can't be had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import save_file

from csd_nerf import priors
from csd_nerf.priors import WeightsNotFoundError, names
from csd_nerf.priors.families import FAMILIES, Family, missing_files, needed_files

REPO = "someone/some-model"
FETCH = r"`csd-nerf weights {repo}`"
PIXELS, LATENTS = FAMILIES["IFPipeline"], FAMILIES["StableDiffusionPipeline"]

IF_FILES = {
    "model_index.json",
    "README.md",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "text_encoder/model.fp16-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.fp16.json",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/pytorch_model-00001-of-00002.bin",
    "text_encoder/pytorch_model-00002-of-00002.bin",
    "text_encoder/pytorch_model.bin.index.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/spiece.model",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
}
"""As in DeepFloyd/IF-I-XL-v1.0."""
HALF_FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "text_encoder/model.fp16-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.fp16.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/spiece.model",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
]


def missing(files: set[str], variant: str | None = None, *, family: Family = PIXELS) -> list[str]:
    return missing_files(family, files, variant=variant)


@pytest.fixture
def there(tmp_path, make_text_folder) -> Path:
    """A folder of files without weights, named as the published ones, and with configurations."""
    folder, whole = tmp_path / "there", make_text_folder("pixels")
    for file in IF_FILES:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if (whole / file).is_file() and path.suffix == ".json":
            shutil.copy(whole / file, path)
        elif path.suffix == ".safetensors":
            save_file({}, path)
        elif ".index" in path.name:
            form = "bin" if ".bin." in path.name else "safetensors"
            stem = {"bin": "pytorch_model", "safetensors": "model"}[form]
            stem += ".fp16" if "fp16" in path.name else ""
            shards = {str(n): f"{stem}-0000{n}-of-00002.{form}" for n in (1, 2)}
            path.write_text(json.dumps({"weight_map": shards}))
    return folder


def open_hub(monkeypatch, there: Path, *, gated: bool | str = False) -> list[dict]:
    """A hub with a repository of these files; returns the list of downloads of weights."""
    downloads: list[dict] = []

    def download(repo, **options):
        downloads.append({"repo": repo, **options})
        return str(there)

    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "model_info",
        lambda _, repo, timeout, files_metadata: huggingface_hub.ModelInfo(
            id=repo, gated=gated, siblings=[{"rfilename": file} for file in IF_FILES]
        ),
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return downloads


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_published_files_are_enough_and_each_needed_one_is_missed(variant):
    assert missing(IF_FILES, variant) == []
    needed = needed_files(PIXELS, IF_FILES, variant=variant)
    if variant:
        assert needed == HALF_FILES
    assert missing(set(needed), variant) == []
    for file in set(needed) - {"tokenizer/special_tokens_map.json", "model_index.json"}:
        assert len(missing(set(needed) - {file}, variant)) == 1


def test_old_weights_count_where_there_are_no_new_ones():
    old = {file for file in IF_FILES if not file.endswith("safetensors") and "fp16" not in file}
    old -= {"text_encoder/model.safetensors.index.json"}
    assert missing(old) == []
    needed = needed_files(PIXELS, old, variant=None)
    assert "unet/diffusion_pytorch_model.bin" in needed
    assert "text_encoder/pytorch_model-00002-of-00002.bin" in needed


def test_a_missing_shard_is_told():
    (told,) = missing(IF_FILES - {"text_encoder/model.fp16-00002-of-00002.safetensors"}, "fp16")
    assert told == "weights that text_encoder/model.safetensors.index.fp16.json names"


def test_a_latent_model_needs_its_autoencoder_and_clips_tokenizer():
    clip = {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    latent = (IF_FILES - {"tokenizer/spiece.model"}) | clip
    vae = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert missing(latent | vae, family=LATENTS) == []
    for file in vae:
        assert missing(latent | vae - {file}, family=LATENTS) == [file]
    assert missing(IF_FILES | vae, family=LATENTS) == ["tokenizer/tokenizer.json"]
    assert missing(latent | vae) == ["tokenizer/tokenizer.json"]


@pytest.mark.parametrize(
    ("model", "file", "named"),
    [
        ("pixels", "unet/config.json", "unet/config.json"),
        ("pixels", "text_encoder/model.safetensors", "text_encoder/model.safetensors"),
        ("pixels", "tokenizer/tokenizer.json", "tokenizer/tokenizer.json"),
        ("pixels", "scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
        ("latents", "vae/config.json", "vae/config.json"),
        (
            "latents",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
        ),
    ],
)
def test_an_incomplete_folder_names_the_missing_part(
    make_text_folder, tmp_path, model, file, named
):
    copy = shutil.copytree(make_text_folder(model), tmp_path / "copy")
    assert priors.fetch(copy, kind="text")[0] == copy
    (copy / file).unlink()
    fetch = FETCH.format(repo="stable-diffusion-v1-5/stable-diffusion-v1-5")
    for attempt in (
        lambda: priors.fetch(copy, kind="text"),
        lambda: priors.load(copy, kind="text"),
    ):
        with pytest.raises(WeightsNotFoundError, match=f"copy lacks {named}; .*{fetch}") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_an_unreachable_hub_ends_in_one_line_after_one_request(empty_cache, no_hub):
    fetch = FETCH.format(repo="DeepFloyd/IF-I-XL-v1.0")
    with pytest.raises(WeightsNotFoundError, match=fetch) as error:
        priors.load("deepfloyd-if", kind="text")
    message = str(error.value)
    assert "\n" not in message
    assert "licence" not in message
    assert len(no_hub) == 1


def gated_error() -> Exception:
    error_class = huggingface_hub.errors.GatedRepoError
    return error_class.__new__(error_class)


def refuse(*_args, **_options) -> None:
    raise gated_error()


@pytest.mark.parametrize("attempt", [priors.fetch, priors.load])
def test_a_licence_to_accept_is_named(attempt, there, empty_cache, monkeypatch):
    downloads = open_hub(monkeypatch, there, gated="auto")
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", refuse)
    page = "https://huggingface.co/DeepFloyd/IF-I-XL-v1.0"
    with pytest.raises(
        WeightsNotFoundError, match=f"accept its licence at {page}, run `hf auth login`, fetch"
    ) as error:
        attempt("deepfloyd-if", kind="text")
    assert "\n" not in str(error.value)
    assert downloads == []


def test_a_download_takes_only_what_one_variant_needs(there, empty_cache, monkeypatch):
    downloads = open_hub(monkeypatch, there, gated="auto")
    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", lambda *_: None)
    assert priors.fetch("deepfloyd-if", variant="fp16", kind="text") == (there, PIXELS)
    wanted = [download["allow_patterns"] for download in downloads]
    assert wanted == [["model_index.json"], HALF_FILES]
    assert {download["repo"] for download in downloads} == {"DeepFloyd/IF-I-XL-v1.0"}


def test_a_broken_download_ends_in_one_line(there, empty_cache, monkeypatch):
    open_hub(monkeypatch, there)

    def download(*_args, **_options) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightsNotFoundError, match=r"download failed \(ConnectionError\); fetch"):
        priors.fetch(REPO, kind="text")


def test_cached_weights_need_no_hub(make_text_folder, empty_cache, no_hub):
    store = empty_cache / f"models--{REPO.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("abc123")
    snapshot = shutil.copytree(make_text_folder("pixels"), store / "snapshots" / "abc123")
    assert priors.fetch(REPO, kind="text") == (snapshot, PIXELS)
    assert priors.load(REPO, kind="text").name == REPO
    assert no_hub == []


def test_bundled_priors_of_the_other_kind_are_told_apart():
    with pytest.raises(
        WeightsNotFoundError,
        match=r"an editing prior, 'tiny-text' is a text-to-image prior: .* instruct-pix2pix, .*tin",
    ):
        priors.load("tiny-text")
    with pytest.raises(
        WeightsNotFoundError,
        match="'tiny' is an editing prior: name one of stable-diffusion, deepfloyd-if, tiny-text",
    ):
        priors.load("tiny", kind="text")


def test_the_bundled_prior_lies_in_the_package(make_text_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(names.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(
        WeightsNotFoundError, match=r"bundled prior 'tiny-text' .* install csd_nerf again"
    ):
        priors.fetch("tiny-text", kind="text")
    bundled = tmp_path / "csd_nerf" / "assets" / "tiny_text"
    shutil.copytree(make_text_folder("pixels"), bundled)
    assert priors.fetch("tiny-text", kind="text") == (bundled, PIXELS)
