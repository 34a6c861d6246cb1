from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from PIL import Image

from csd_nerf.adapters.file_reporter import FileReporter
from csd_nerf.adapters.reporter import Reporter, SilentReporter
from csd_nerf.adapters.run_files import RunFiles, fingerprint

SETTINGS = {"seed": 5, "text_scale": 7.5, "region": ("a@0,0,1,1",), "max_batch": 8, "resume": False}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in" / "river.jpg"
    path.parent.mkdir()
    path.write_bytes(b"pixels")
    return path


@pytest.fixture
def run_files(source, tmp_path):
    (tmp_path / "out").mkdir()

    def run_files(settings=SETTINGS) -> RunFiles:
        output, command = tmp_path / "out" / "river.png", ["csd-nerf", "panorama", "a b"]
        return RunFiles(source, output, settings, command, fingerprint(source))

    return run_files


@pytest.fixture
def make(run_files):
    def make(*, settings=SETTINGS, resume=False, overwrite=False, **options) -> FileReporter:
        """The reporter of a run, after a look at what lies there."""
        files = run_files(settings)
        found = files.look(resume=resume, overwrite=overwrite)
        plain = {"save_every": 2, "preview_every": 0, **options}
        return FileReporter(files, resuming=found == "state", **plain)

    return make


def work(reporter: FileReporter, steps: int, *, total: int = 9, done: int = 0) -> None:
    reporter.begin("editing", total, done=done)
    for step in range(done + 1, steps + 1):
        reporter.tick(step, state=lambda: {"latent": torch.full((2,), float(step))})  # noqa: B023


def names(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "out").iterdir()}


def test_both_reporters_are_reporters(make):
    assert isinstance(SilentReporter(), Reporter)
    assert isinstance(make(), Reporter)


def test_a_state_comes_back_with_what_was_done_last(make, tmp_path):
    with make() as reporter:
        assert reporter.restored() is None
        work(reporter, 5)
    assert names(tmp_path) == {"river.png.state.pt"}
    reporter = make(resume=True)
    assert reporter.resuming
    state = reporter.restored()
    assert state["done"] == 4
    assert state["latent"].tolist() == [4.0, 4.0]


def test_the_last_step_is_saved_whatever_its_number(make):
    with make() as reporter:
        work(reporter, 3, total=3)
    assert make(resume=True).restored()["done"] == 3


def test_zero_saves_and_shows_nothing(make, tmp_path):
    with make(save_every=0) as reporter:
        work(reporter, 3, total=3)
    assert names(tmp_path) == set()


def test_a_state_of_other_settings_is_refused_by_name(make):
    with make() as reporter:
        work(reporter, 2)
    other = {**SETTINGS, "text_scale": 5.0, "region": ("b@0,0,1,1",)}
    message = (
        r"--resume needs what .*river.png.state.pt was made with, got --text-scale 5.0 instead of "
        r'7.5, --region \["b@0,0,1,1"\] instead of \["a@0,0,1,1"\];'
    )
    with pytest.raises(ValueError, match=message):
        make(settings=other, resume=True)


def test_what_only_costs_memory_or_time_may_differ(make):
    with make() as reporter:
        work(reporter, 2)
    assert make(settings={**SETTINGS, "max_batch": 1, "resume": True}, resume=True).resuming


def test_a_state_of_another_input_is_refused(make, source):
    with make() as reporter:
        work(reporter, 2)
    source.write_bytes(b"others")
    with pytest.raises(ValueError, match="got an input of other contents"):
        make(resume=True)


def test_a_folders_fingerprint_is_of_its_files(make, source, tmp_path):
    source.unlink()
    source.mkdir()
    (source / "1.png").write_bytes(b"one")
    with make() as reporter:
        work(reporter, 2)
    assert make(resume=True).resuming
    (source / "2.png").write_bytes(b"two")
    with pytest.raises(ValueError, match="got an input of other contents"):
        make(resume=True)


@pytest.mark.parametrize("damage", ["cut", "noise", "foreign"])
def test_a_damaged_state_ends_in_one_line(make, tmp_path, damage):
    with make() as reporter:
        work(reporter, 2)
    path = tmp_path / "out" / "river.png.state.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "noise":
        path.write_bytes(b"noise")
    else:
        torch.save({"other": 1}, path)
    with pytest.raises(ValueError, match=r"--resume needs a whole state, got .*; add"):
        make(resume=True)


def test_without_resume_a_state_is_not_lost_silently(make):
    with make() as reporter:
        work(reporter, 2)
    message = r"state in .*river.png.state.pt; pass --resume to go on with it, or --overwrite"
    with pytest.raises(FileExistsError, match=message):
        make()


def test_overwriting_starts_anew_and_removes_the_old_state(make, tmp_path):
    with make() as reporter:
        work(reporter, 2)
    with make(overwrite=True) as reporter:
        assert reporter.restored() is None
        assert names(tmp_path) == set()


def test_resuming_and_overwriting_starts_anew_only_what_cannot_go_on(make):
    with make() as reporter:
        work(reporter, 2)
    assert make(resume=True, overwrite=True).resuming
    other = {**SETTINGS, "seed": 6}
    assert not make(settings=other, resume=True, overwrite=True).resuming


def test_an_output_is_only_replaced_when_asked(make, run_files, tmp_path):
    (tmp_path / "out" / "river.png").touch()
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="pass --overwrite to replace it"):
            make(resume=resume)
    assert run_files().look(resume=False, overwrite=True) == "nothing"


def test_a_finished_run_leaves_its_record_alone(make, run_files, tmp_path):
    with make(preview_every=1) as reporter:
        reporter.begin("editing", 2)
        picture = torch.zeros(2, 2, 3, dtype=torch.uint8)
        reporter.tick(1, preview=lambda: picture)
        with Image.open(tmp_path / "out" / "river.preview.png") as preview:
            assert preview.size == (2, 2)
        reporter.note("enlarged")
        reporter.note("enlarged")
        told = ["cut off", *reporter.notices]
        run_files().finish({"evaluations": 12}, notices=told, seconds=reporter.seconds)
    assert names(tmp_path) == {"river.png.json"}
    record = json.loads((tmp_path / "out" / "river.png.json").read_text())
    assert record["command"] == "csd-nerf panorama 'a b'"
    assert record["notices"] == ["cut off", "enlarged"]
    assert record["facts"] == {"evaluations": 12}
    assert record["seed"] == 5
    assert record["settings"] == {**SETTINGS, "region": ["a@0,0,1,1"]}
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "csd_nerf", "diffusers", "transformers", "av", "numpy"} < {
        *record["versions"]
    }
    assert record["seconds"] >= 0
    assert record["date"].startswith("20")


def test_a_finished_run_has_nothing_to_resume(make, run_files, tmp_path):
    run_files().finish({}, notices=[], seconds=1.0)
    (tmp_path / "out" / "river.png").touch()
    assert run_files().look(resume=True, overwrite=False) == "result"
    with pytest.raises(ValueError, match="got --seed 6 instead of 5"):
        make(settings={**SETTINGS, "seed": 6}, resume=True)
    (tmp_path / "out" / "river.png.json").write_text("{}")
    with pytest.raises(ValueError, match="needs a record that can be read"):
        make(resume=True)


def test_the_time_of_an_interrupted_run_counts(make, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("csd_nerf.adapters.file_reporter.monotonic", lambda: now[0])
    with make() as reporter:
        now[0] = 130.0
        work(reporter, 2)
    now[0] = 1000.0
    with make(resume=True) as reporter:
        reporter.restored()
        now[0] = 1012.0
        assert reporter.seconds == 42.0


def test_the_bar_starts_at_what_is_done(make, capsys):
    with make(label="[2/5] river.jpg: ") as reporter:
        reporter.begin("editing", 10, done=4)
        reporter.tick(5)
    shown = capsys.readouterr().err
    assert "[2/5] river.jpg: editing:  40%" in shown
    assert "4/10" in shown


def test_a_note_is_printed_once(make, capsys):
    reporter = make()
    reporter.note("enlarged")
    reporter.note("enlarged")
    assert capsys.readouterr().err == "note: enlarged\n"


def test_ctrl_c_waits_for_the_step_and_saves_it(make, capsys):
    def interrupted() -> None:
        with make(save_every=100) as reporter:
            work(reporter, 2)
            os.kill(os.getpid(), signal.SIGINT)
            reporter.tick(3, state=lambda: {"latent": torch.zeros(1)})

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is before
    assert "Stopping after this step" in capsys.readouterr().err
    assert make(resume=True).restored()["done"] == 3


@pytest.mark.parametrize("steps", [0, 1])
def test_a_second_ctrl_c_or_one_with_nothing_to_save_does_not_wait(make, steps):
    reached = []

    def interrupted() -> None:
        with make() as reporter:
            work(reporter, steps)
            for _ in range(1 + steps):
                os.kill(os.getpid(), signal.SIGINT)
                reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(reached) == steps


def test_the_earlier_state_stays_until_the_new_one_is_whole(make, monkeypatch):
    def fails(saved, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: disk full")

    with make() as reporter:
        work(reporter, 2)
        monkeypatch.setattr(torch, "save", fails)
        with pytest.raises(OSError, match=r"The state must be saved, got .* disk full"):
            reporter.tick(4, state=dict)
    assert make(resume=True).restored()["done"] == 2


def test_a_state_that_cannot_be_written_says_what_helps(make, tmp_path):
    with make() as reporter:
        reporter.begin("editing", 4)
        (tmp_path / "out").rmdir()
        with pytest.raises(OSError, match="save none with --save-every 0"):
            reporter.tick(2, state=lambda: {"latent": torch.zeros(1)})
