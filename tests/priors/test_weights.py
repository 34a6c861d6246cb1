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
from diffusers import StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from tint_prior import TintPrior

from csd_nerf import cli, priors
from csd_nerf.priors import WeightsNotFoundError, names, weights
from csd_nerf.priors.families import FAMILIES, missing_files

REPO = "someone/some-model"
EDITING = FAMILIES["StableDiffusionInstructPix2PixPipeline"]
FETCH = "`csd-nerf weights timbrooks/instruct-pix2pix`, or on another machine with --output"


def put_into_cache(folder: Path, cache: Path, repo: str) -> Path:
    """Lay a pipeline's folder out as the hub's client does."""
    store = cache / f"models--{repo.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("abc123")
    return shutil.copytree(folder, store / "snapshots" / "abc123")


@pytest.mark.parametrize("attempt", [priors.fetch, priors.load])
def test_an_unreachable_hub_ends_in_one_line_after_one_request(attempt, empty_cache, no_hub):
    with pytest.raises(WeightsNotFoundError, match=FETCH) as error:
        attempt("instruct-pix2pix")
    message = str(error.value)
    assert "\n" not in message
    assert "the prior 'timbrooks/instruct-pix2pix'" in message
    assert "--pipeline" not in message
    assert "--prior" not in message
    assert isinstance(error.value, OSError)
    assert "the hub can't be reached (ConnectionError; check the network and its proxy)" in message
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


Downloads = list[tuple[str, list[str]]]


def open_hub(monkeypatch, folder: Path) -> Downloads:
    """A hub that has a folder's files; returns the repositories and files that were downloaded."""
    downloads: Downloads = []
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def download(repo: str, *, allow_patterns: list[str], local_dir: Path | None) -> str:
        downloads.append((repo, allow_patterns))
        if local_dir is None:
            return str(folder)
        for name in allow_patterns:
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, local_dir / name)
        return str(local_dir)

    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "model_info",
        lambda _, repo, timeout, files_metadata: huggingface_hub.ModelInfo(
            id=repo,
            siblings=[
                {"rfilename": file, "size": (folder / file).stat().st_size if files_metadata else 0}
                for file in files
            ],
        ),
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return downloads


INDEX_ALONE: Downloads = [(REPO, ["model_index.json"])]


def test_a_repository_that_lacks_something_is_refused_before_its_weights_are_downloaded(
    folder, tmp_path, empty_cache, monkeypatch
):
    downloads = open_hub(monkeypatch, folder)
    with pytest.raises(WeightsNotFoundError, match=r"repository lacks unet/.*\.fp16\.safetensors"):
        priors.fetch(REPO, variant="fp16")
    assert downloads == INDEX_ALONE
    bare = tmp_path / "bare"
    (bare / "vae").mkdir(parents=True)
    downloads = open_hub(monkeypatch, bare)
    with pytest.raises(WeightsNotFoundError, match=r"repository lacks model_index\.json; fetch"):
        priors.load(REPO)
    assert downloads == []
    shutil.copy(folder / "model_index.json", bare)
    downloads = open_hub(monkeypatch, bare)
    with pytest.raises(WeightsNotFoundError, match=r"repository lacks unet/config\.json, .*vae/"):
        priors.load(REPO)
    assert downloads == INDEX_ALONE


def test_a_repository_of_the_other_kind_is_refused_before_its_weights_are_downloaded(
    make_text_folder, empty_cache, monkeypatch
):
    downloads = open_hub(monkeypatch, make_text_folder("latents"))
    told = f"This needs an editing prior, '{REPO}' is a text-to-image prior: name one of"
    with pytest.raises(WeightsNotFoundError, match=told):
        priors.fetch(REPO)
    assert downloads == INDEX_ALONE


def test_exactly_the_files_that_are_needed_are_downloaded_after_their_size_is_told(
    folder, tmp_path, empty_cache, monkeypatch, capsys
):
    source = tmp_path / "hub"
    shutil.copytree(folder, source)
    for name in ("flax_model.msgpack", "unet/other.bin", "safety_checker/model.safetensors"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(bytes(5_000_000))
    downloads = open_hub(monkeypatch, source)
    output = tmp_path / "weights"
    cli.main(["weights", REPO, "--output", str(output)])
    found = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert found == {Path(name) for name in downloads[-1][1]}
    assert downloads[0] == INDEX_ALONE[0]
    assert not {str(path) for path in found} & {"flax_model.msgpack", "unet/other.bin"}
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    told = capsys.readouterr().out.splitlines()
    assert told == [
        f"weights: {REPO}: {len(found)} files of {size / 1e9:.1f} GB (without a variant) go to "
        f"{output}.",
        f"weights: {output} is complete.",
    ]
    assert priors.load(output).preferred_size == 64


def test_weights_that_can_not_be_downloaded_are_one_line(
    folder, tmp_path, empty_cache, monkeypatch, no_hub, capsys
):
    for name, what in (
        ("tiny", "Only models on the hub can be fetched, got tiny"),
        (REPO, f"fetch them with `csd-nerf weights {REPO}`, or on another machine"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["weights", name])
        assert what in capsys.readouterr().err
    put_into_cache(folder, empty_cache, REPO)
    cli.main(["weights", REPO])
    assert f"{REPO} is at hand already (without a variant), in" in capsys.readouterr().out


def test_cached_weights_need_no_hub(folder, empty_cache, no_hub):
    snapshot = put_into_cache(folder, empty_cache, REPO)
    assert priors.fetch(REPO) == (snapshot, EDITING)
    assert priors.load(REPO).name == REPO
    assert no_hub == []


@pytest.mark.parametrize("file", ["vae/diffusion_pytorch_model.safetensors", "model_index.json"])
def test_an_incomplete_cache_is_not_enough(folder, empty_cache, no_hub, file):
    snapshot = put_into_cache(folder, empty_cache, REPO)
    (snapshot / file).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"`csd-nerf weights {REPO}`"):
        priors.fetch(REPO)


def test_a_download_takes_no_file_that_loading_does_not_read(
    folder, tmp_path, empty_cache, monkeypatch
):
    whole = shutil.copytree(folder, tmp_path / "whole")
    for extra in ("safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin"):
        (whole / extra).parent.mkdir(exist_ok=True)
        (whole / extra).touch()
    downloads = open_hub(monkeypatch, whole)
    assert priors.fetch(REPO) == (whole, EDITING)
    *first, (repo, files) = downloads
    assert first == INDEX_ALONE
    assert repo == REPO
    read = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(files) == read


@pytest.mark.parametrize("broken", ["the index", "the rest"])
def test_a_broken_download_ends_in_one_line(folder, empty_cache, monkeypatch, broken):
    def download(repo, *, allow_patterns, local_dir):
        if broken == "the rest" and allow_patterns == ["model_index.json"]:
            return str(folder)
        raise ConnectionError("reset by peer")

    open_hub(monkeypatch, folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightsNotFoundError, match=r"download failed \(ConnectionError\)"):
        priors.fetch(REPO)


def test_a_folder_that_is_not_there(tmp_path):
    for name in (tmp_path / "absent", str(tmp_path / "absent"), "absent"):
        with pytest.raises(WeightsNotFoundError, match=f"absent does not exist; .*{FETCH}"):
            priors.fetch(name)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("model_index.json", "model_index.json"),
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
    assert priors.fetch(copy) == (copy, EDITING)
    (copy / file).unlink()
    for attempt in (priors.fetch, priors.load):
        with pytest.raises(WeightsNotFoundError, match=f"copy lacks {named}; ") as error:
            attempt(copy)
        assert "\n" not in str(error.value)


def test_sharded_weights_are_loaded_and_a_missing_shard_is_told(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    whole.unlink()
    unet.save_pretrained(copy / "unet", max_shard_size=whole_size(folder) // 3)
    shards = sorted(whole.parent.glob("*-of-*.safetensors"))
    assert len(shards) > 2
    loaded, expected = (priors.load(path).unet.state_dict() for path in (copy, folder))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    shards[1].unlink()
    named = r"weights that unet/diffusion_pytorch_model\.safetensors\.index\.json names"
    for attempt in (priors.fetch, priors.load):
        with pytest.raises(WeightsNotFoundError, match=f"copy lacks {named}; "):
            attempt(copy)


def whole_size(folder: Path) -> int:
    return (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size


def test_files_of_other_releases_count():
    files = {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/config.json",
        "text_encoder/pytorch_model.bin",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }
    assert missing_files(EDITING, files) == []
    for file in files:
        assert len(missing_files(EDITING, files - {file})) == 1


def test_a_variant_is_loaded_and_named_where_it_is_missing(folder, tmp_path):
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()

    prior = priors.load(tmp_path, variant="fp16", dtype="float16")
    expected = priors.load(folder, dtype="float16")
    image01 = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(prior.encode(image01), expected.encode(image01))
    for name, rows in expected.encode_text(["fog"]).items():
        torch.testing.assert_close(prior.encode_text(["fog"])[name], rows)

    told = r"lacks unet/diffusion_pytorch_model\.ema\..*safetensors \(it has the variant fp16\)"
    with pytest.raises(WeightsNotFoundError, match=told):
        priors.fetch(tmp_path, variant="ema")


@pytest.fixture(scope="session")
def both(folder, tmp_path_factory) -> Path:
    """A folder whose weights are there in float32 and, doubled, as fp16."""
    copy = tmp_path_factory.mktemp("both") / "model"
    shutil.copytree(folder, copy)
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(2)
    pipeline.to(torch.float16).save_pretrained(copy, variant="fp16")
    return copy


def without(source: Path, target: Path, pattern: str) -> Path:
    shutil.copytree(source, target)
    found = [path for path in target.glob(pattern) if ("fp16" in path.name) == ("fp16" in pattern)]
    assert found
    for path in found:
        path.unlink()
    return target


def is_doubled(prior, folder: Path) -> bool:
    plain = UNet2DConditionModel.from_pretrained(folder / "unet").conv_out.weight
    ratio = prior.unet.conv_out.weight.float() / plain
    assert ratio.std() < 1e-2
    return bool(ratio.mean() > 1.5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "auto"])
def test_half_precision_reads_the_files_of_half_the_size(both, folder, dtype):
    prior = priors.load(both, dtype=dtype)
    # On a CPU auto is float32.
    half = dtype in ("float16", "bfloat16")
    assert is_doubled(prior, folder) == half
    assert prior.unet.dtype == (getattr(torch, dtype) if half else torch.float32)


def test_an_explicit_variant_wins(both, folder):
    assert is_doubled(priors.load(both, variant="fp16", dtype="float32"), folder)


@pytest.mark.parametrize("lost", ["unet", "text_encoder"])
def test_half_a_set_of_fp16_files_is_none(both, folder, tmp_path, lost):
    copy = without(both, tmp_path / "copy", f"{lost}/*fp16*")
    assert not is_doubled(priors.load(copy, dtype="float16"), folder)
    # Nor are the two sets mixed.
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"lacks vae/diffusion_pytorch_model\.safet"):
        priors.load(copy, dtype="float16")


def test_a_folder_with_fp16_files_alone_is_loaded_in_float32_too(both, folder, tmp_path):
    copy = without(both, tmp_path / "copy", "*/*.safetensors")
    prior = priors.load(copy)
    assert is_doubled(prior, folder)
    for part in (prior.unet, prior._vae, prior._texts._model):
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}


@pytest.mark.parametrize(("device", "half"), [("cuda:0", True), ("cpu", False)])
def test_only_the_files_that_will_be_loaded_are_downloaded(
    both, empty_cache, monkeypatch, device, half
):
    downloads = open_hub(monkeypatch, both)
    found = weights.find_weights(REPO, device=device, dtype="auto")
    assert found.variant == ("fp16" if half else None)
    read = [name for name in downloads[-1][1] if name.endswith("safetensors")]
    assert len(read) == 3
    assert {"fp16" in name for name in read} == {half}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("cached", ["fp16", "plain"])
def test_offline_the_cache_may_hold_either(
    both, folder, empty_cache, tmp_path, no_hub, dtype, cached
):
    lost = "*/*.safetensors" if cached == "fp16" else "*/*fp16*"
    put_into_cache(without(both, tmp_path / "copy", lost), empty_cache, REPO)
    assert is_doubled(priors.load(REPO, dtype=dtype), folder) == (cached == "fp16")
    # Float32 asks for plain files once; half precision is content with them.
    assert len(no_hub) == (cached == "fp16" and dtype == "float32")


def test_float32_is_worth_a_download_where_the_cache_holds_fp16(
    both, empty_cache, tmp_path, monkeypatch
):
    put_into_cache(without(both, tmp_path / "copy", "*/*.safetensors"), empty_cache, REPO)
    downloads = open_hub(monkeypatch, both)
    assert weights.find_weights(REPO).variant is None
    assert len(downloads) == 2


def test_the_weights_of_a_gpu_are_fetched_and_told(
    both, empty_cache, tmp_path, monkeypatch, capsys
):
    downloads = open_hub(monkeypatch, both)
    output = tmp_path / "weights"
    cli.main(["weights", REPO, "--output", str(output)])
    assert "GB (the variant fp16) go to" in capsys.readouterr().out
    assert sum("fp16" in name for name in downloads[-1][1]) == 3
    assert weights.find_weights(output, dtype="float16").variant == "fp16"
    cli.main(["weights", REPO, "--output", str(tmp_path / "other"), "--variant", "fp16"])
    assert downloads[-1][1] == downloads[1][1]


@pytest.mark.parametrize(("dtype", "variant"), [("auto", "fp16"), ("float32", None)])
def test_what_is_fetched_before_a_scene_is_what_is_loaded(
    both, empty_cache, monkeypatch, dtype, variant
):
    from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions

    downloads = open_hub(monkeypatch, both)
    options = PriorOptions(
        prior=REPO, prior_dtype=dtype, prior_device="cuda:0", prior_compile="off"
    )
    prior = LazyPrior(options, kind="edit", device="cpu", command="csd-edit", limit="--n")
    prior.fetch()
    fetched = {"fp16" in name for name in downloads[-1][1] if name.endswith("safetensors")}
    assert fetched == {variant == "fp16"}
    loaded, tint = [], TintPrior()
    monkeypatch.setattr(type(EDITING), "load", lambda *_, **given: loaded.append(given) or tint)
    prior.get()
    assert loaded[0]["variant"] == variant


def test_a_missing_bundled_prior_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(names.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(
        WeightsNotFoundError, match=r"bundled prior 'tiny' .* install csd_nerf again"
    ):
        priors.fetch("tiny")


def test_the_bundled_prior_lies_in_the_package(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(names.resources, "files", lambda package: tmp_path / package)
    bundled = shutil.copytree(folder, tmp_path / "csd_nerf" / "assets" / "tiny")
    assert priors.fetch("tiny") == (bundled, EDITING)


def test_the_usual_numbers_of_a_prior_need_neither_network_nor_weights(tmp_path, no_hub):
    for name in ("flux-kontext", "black-forest-labs/FLUX.1-Kontext-dev"):
        assert priors.usual_numbers(name)["text_scale"] == 1.0
    (tmp_path / "model_index.json").write_text('{"_class_name": "Flux2KleinPipeline"}')
    found = priors.usual_numbers(tmp_path)
    assert found == {"text_scale": 4.0, "image_scale": 1.0, "t_range": (0.02, 0.98)}
    assert priors.usual_numbers(tmp_path / "none") == {}
    (tmp_path / "model_index.json").write_text("{")
    assert priors.usual_numbers(tmp_path) == {}
    assert priors.usual_numbers("some/model") == {}
    assert no_hub == []


def test_half_precision_is_the_default_on_a_gpu_as_it_suits_the_family():
    gpu, cpu = torch.device("cuda:1"), torch.device("cpu")
    assert priors.precision("auto", device=gpu, half="bfloat16") == torch.bfloat16
    assert priors.precision("auto", device=gpu, half="float16") == torch.float16
    assert priors.precision("auto", device=cpu, half="bfloat16") == torch.float32
    assert priors.precision("float32", device=gpu, half="float16") == torch.float32
    assert priors.precision(torch.float16, device=cpu, half="bfloat16") == torch.float16
    with pytest.raises(ValueError, match=r"dtype needs one of auto, float32, .* got int8\.$"):
        priors.precision("int8", device=cpu, half="float16")
    halves = {name: family.half for name, family in FAMILIES.items()}
    flows = {"Flux2KleinPipeline", "FluxKontextPipeline", "QwenImageEditPlusPipeline"}
    assert {name for name, half in halves.items() if half == "bfloat16"} == flows


@pytest.mark.parametrize("preset", ["full", "release", "tiny"])
def test_presets_leave_the_precision_to_the_device_but_the_release_s(preset):
    from csd_nerf.adapters.options import PanoramaOptions
    from csd_nerf.methods.csd_edit.config import csd_edit

    wanted = "float32" if preset == "release" else "auto"
    assert PanoramaOptions(preset=preset).values().dtype == wanted
    assert csd_edit.config.pipeline.prior_dtype == "auto"
