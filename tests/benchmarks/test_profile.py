"""What the profile counts and writes; how long things take is no matter of a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as cli
from benchmarks.profile import clock as timing
from benchmarks.profile import run as profile
from benchmarks.profile.clock import SECTIONS, SectionClock
from benchmarks.profile.hardware import machine, matmul_rate, unet_flop
from benchmarks.profile.run import measure, run_profile
from benchmarks.profile.settings import ProfileSettings
from csd_nerf import priors

CPU = torch.device("cpu")
OUTPUT = Path("unused.json")


@pytest.fixture(scope="module")
def prior():
    return priors.load("tiny")


@pytest.mark.parametrize(("threads", "read"), [(1, "process_time"), (2, "perf_counter")])
def test_the_clock_leaves_no_gap(monkeypatch, threads, read):
    times = iter([1.0, 2.5, 4.0, 8.0])
    monkeypatch.setattr(timing, read, lambda: next(times))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    clock = SectionClock(CPU)
    clock.enter("rest")
    clock.enter("unet")
    clock.enter("rest")
    assert clock.stop() == {"unet": 1.5, "vae": 0.0, "mixing": 0.0, "rest": 1.5 + 4.0}


def test_both_loops_make_the_same_edit_in_turns_and_every_section_is_entered(prior):
    runs = measure(prior, 2, 32, ProfileSettings(output=OUTPUT, iterations=2, repetitions=2))
    assert [len(arm) for arm in runs] == [2, 2]
    assert [run.evaluations for arm in runs for run in arm] == [20, 20, 24, 24]
    for arm in runs:
        for run in arm:
            assert all(run.seconds[name] > 0 for name in SECTIONS)
            assert 0 < run.loop_seconds == sum(run.seconds.values()) - run.seconds["vae"]
            assert run.peak_mib > 0
            torch.testing.assert_close(run.latent, runs[0][0].latent, rtol=0, atol=1e-4)


def test_channels_last_is_for_our_loop_alone(prior, monkeypatch):
    layouts = {}
    for name, loop in (("ours", profile.our_loop), ("naive", profile.naive_loop)):

        def noted(counted, stack, settings, *, name=name, loop=loop):
            weight = counted.unet.conv_in.weight
            layouts[name] = weight.is_contiguous(memory_format=torch.channels_last)
            loop(counted, stack, settings)

        monkeypatch.setattr(profile, loop.__name__, noted)
    prior.unet.to(memory_format=torch.channels_last)
    try:
        measure(
            prior,
            1,
            32,
            ProfileSettings(output=OUTPUT, iterations=1, repetitions=1, channels_last=True),
        )
        assert prior.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    finally:
        prior.unet.to(memory_format=torch.contiguous_format)
    assert layouts == {"ours": True, "naive": False}


def test_an_evaluations_operations_grow_with_the_picture(prior):
    small, large = unet_flop(prior, 32), unet_flop(prior, 64)
    # Convolutions grow by 4, self-attention by 16, the embedding of the timestep not at all.
    assert 3.5 * small < large < 6 * small


def test_the_rate_of_matrix_products_is_operations_by_median_time(monkeypatch):
    # Eight products; the first takes 100 s, the others 2 s but for one.
    marks = iter([0.0, 100.0] + [0.0, 2.0] * 3 + [0.0, 50.0] + [0.0, 2.0] * 3)
    monkeypatch.setattr(timing, "_cpu_seconds", lambda: next(marks))
    assert matmul_rate(CPU, torch.float32) == 2 * 1024**3 / 2.0


def test_the_command_writes_figures_table_and_plot(tmp_path, capsys):
    output = tmp_path / "deep" / "profile.json"
    options = "--particles 1 2 --size 32 --iterations 1 --repetitions 1"
    cli.main(["profile", "--output", str(output), *options.split()])
    record = json.loads(output.read_text())
    assert record["settings"]["prior"] == "tiny"
    assert record["settings"]["size"] == 32
    assert record["machine"] == machine(CPU)
    assert record["unet_tflop"] > 0
    assert record["matmul_tflop_per_second"] > 0
    assert [batch["particles"] for batch in record["batches"]] == [1, 2]
    for batch in record["batches"]:
        low, high = batch["ratio_range"]
        assert low == batch["ratio"] == high
        assert [arm["evaluations_per_particle"] for arm in batch["arms"]] == [5, 6]
        for arm in batch["arms"]:
            assert sum(arm[f"{name}_share"] for name in SECTIONS) == pytest.approx(1)
            assert set(arm["seconds"][0]) == set(SECTIONS)
    ours, naive = record["batches"][0]["arms"]
    speed = ours["iterations_per_second"] / naive["iterations_per_second"]
    assert speed == pytest.approx(record["batches"][0]["ratio"])
    text = output.with_suffix(".md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert [line.split(" | ")[0] for line in text.splitlines()[2:6]] == [
        "| csd_nerf, 1",
        "| naive loop, 1",
        "| csd_nerf, 2",
        "| naive loop, 2",
    ]
    assert Image.open(output.with_suffix(".png")).size > (100, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": (4, 0)}, "--particles must be at least 1 each, got (4, 0)."),
        ({"particles": ()}, "--particles must be at least 1 each, got ()."),
        ({"iterations": 0}, "--iterations must be at least 1, got 0."),
        ({"max_batch": 0}, "--max-batch must be at least 1, got 0."),
        ({"prior": "tiny", "random_weights": "sd15"}, "got --prior tiny as well"),
        ({"dtype": "int8"}, "--dtype needs one of float32, float16, bfloat16, got 'int8'."),
        ({"device": "abacus"}, "A device needs a name such as cpu or cuda:0, got 'abacus'."),
        ({"device": "cuda:99"}, "A device needs to be there, got cuda:99"),
        ({"size": 33}, "--size needs a multiple of 16 for tiny, got 33."),
    ],
)
def test_bad_settings_are_refused_in_a_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run_profile(ProfileSettings(output=tmp_path / "profile.json", **options))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "profile.json").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_clock_reads_events(tmp_path):
    output = tmp_path / "profile.json"
    run_profile(
        ProfileSettings(
            output=output,
            device="cuda",
            dtype="bfloat16",
            particles=(2,),
            iterations=2,
            compile=True,
        )
    )
    record = json.loads(output.read_text())
    assert record["machine"]["gpu"] == torch.cuda.get_device_name()
    for arm in record["batches"][0]["arms"]:
        assert 0 < arm["matmul_share"] < 1
        assert sum(arm[f"{name}_share"] for name in SECTIONS) == pytest.approx(1)
