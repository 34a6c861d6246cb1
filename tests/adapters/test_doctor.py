"""`csd-nerf doctor`."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
from pathlib import Path

import pytest
import torch

from csd_nerf import cli
from csd_nerf.adapters import doctor_report, machine
from csd_nerf.adapters.machine import Gpu, look, measured_rate
from csd_nerf.adapters.prior_rows import duration, markdown, row_of
from csd_nerf.adapters.problems import problems_of, problems_of_prior

PAGE = Path(__file__).parent.parent.parent / "docs" / "priors.md"


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def row():
    return row_of("tiny", torch.device("cpu"))


def test_the_bundled_prior_needs_nothing(no_network, capsys, tmp_path):
    cli.main(["doctor", "--prior", "tiny", "--json", str(tmp_path / "facts.json")])
    told = capsys.readouterr().out
    assert re.search(r"^Python +3\.", told, re.MULTILINE)
    assert f"torch         {torch.__version__.split('+')[0]}" in told
    assert re.search(r"^tiny +bundled ", told, re.MULTILINE)
    assert "measured by a matrix product on the cpu in float32" in told
    facts = json.loads((tmp_path / "facts.json").read_text())
    [only] = facts["priors"]
    assert only["fits"]
    assert only["row"]["name"] == "tiny"
    assert only["seconds"] == pytest.approx(
        only["row"]["flops"] / facts["operations_a_second"]["cpu in float32"]
    )


def test_missing_weights_are_a_failure_for_the_prior_that_is_asked_for(no_network, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--prior", "instruct-pix2pix"])
    assert stop.value.code == 1
    told = capsys.readouterr().out
    assert "- the weights of instruct-pix2pix are not at hand; csd-nerf weights instr" in told


def test_without_a_prior_missing_weights_are_no_failure(no_network, capsys, monkeypatch):
    monkeypatch.setattr(doctor_report, "BUNDLED_MODELS", {"tiny": ()})
    monkeypatch.setattr(doctor_report, "HUB_MODELS", {"instruct-pix2pix": ()})
    cli.main(["doctor"])
    assert "csd-nerf weights instruct-pix2pix" in capsys.readouterr().out


def test_an_unknown_prior_is_one_line(no_network, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--prior", "some/model"])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert "got some/model; fetch it first." in told
    assert told.count("\n") == 1


def here(**changes):
    return dataclasses.replace(look(), **changes)


def told_of(found):
    return " | ".join(map(str, found))


def test_problems_of_the_gpu_have_their_remedies():
    nothing = here(gpus=(), cuda=None, has_driver=False)
    assert "there is no GPU; take the preset tiny" in told_of(problems_of(nothing))
    no_driver = here(gpus=(), cuda="13.0", has_driver=False)
    assert "built for CUDA 13.0, and no GPU answers; install NVIDIA's" in told_of(
        problems_of(no_driver)
    )
    cpu_build = here(gpus=(), cuda=None, has_driver=True)
    assert "torch is built for the CPU alone; install torch for CUDA" in told_of(
        problems_of(cpu_build)
    )


def test_problems_of_packages_have_their_remedies():
    versions = dict.fromkeys(look().versions, "1")
    gpu = (Gpu("a GPU", 24 << 30, 20 << 30),)
    whole = here(gpus=gpu, cuda="13.0", versions=versions, has_compiler=True)
    assert problems_of(whole) == []
    assert "gsplat is not compiled" in told_of(
        problems_of(dataclasses.replace(whole, has_compiler=False))
    )
    for name, remedy in (
        ("tiny-cuda-nn", "nerfstudio's page"),
        ("accelerate", "pip install accelerate"),
        ("bitsandbytes", "pip install bitsandbytes"),
        ("gsplat", "install csd_nerf again"),
    ):
        lacks = dataclasses.replace(whole, versions={**versions, name: None})
        assert remedy in told_of(problems_of(lacks))


def test_problems_of_a_prior(row):
    from csd_nerf.adapters.prior_rows import fitting

    cpu = torch.device("cpu")
    fits, not_so = fitting("tiny", cpu, 1 << 40), fitting("tiny", cpu, 1)
    assert problems_of_prior(row, here(), at_hand=True, choice=fits) == []
    found = problems_of_prior(row, here(cache_free_bytes=0), at_hand=False, choice=not_so)
    assert [problem.prior for problem in found] == ["tiny"] * 3
    assert "0 GB free; set HF_HOME" in told_of(found)
    assert "GB at least, and 0.0 GB are free; take fewer views" in told_of(found)


def test_packages_are_not_imported_for_their_versions(monkeypatch):
    monkeypatch.setattr(machine, "_PACKAGES", {"none": "no-such-package", "torch": "torch"})
    assert look().versions == {"none": None, "torch": torch.__version__.split("+")[0]}


def test_the_rate_is_that_of_a_product():
    rate = measured_rate(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e15


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "less than 1 s"), (30, "30 s"), (150, "2 min"), (9000, "2 h"), (900_000, "10 days")],
)
def test_durations(seconds, told):
    assert duration(float(seconds)) == told


@pytest.mark.parametrize("name", ["instruct-pix2pix", "flux2-klein", "flux-kontext"])
def test_the_table_in_the_docs_is_what_is_computed(name):
    row = row_of(name, torch.device("cuda"))
    head, _, line = markdown([row], doctor_report.REFERENCE_RATE).splitlines()
    page = PAGE.read_text().splitlines()
    assert head in page
    assert line in page


def test_the_table_can_be_made_again(capsys):
    doctor_report.print_table(("instruct-pix2pix",))
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] in PAGE.read_text().splitlines()
