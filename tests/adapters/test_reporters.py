from __future__ import annotations

import json
import os
import signal
import time

import pytest
import torch
from PIL import Image

from csd_nerf.adapters import file_reporter
from csd_nerf.adapters import run_files as run_files_module
from csd_nerf.adapters.file_reporter import FileReporter, byte_bar, clock
from csd_nerf.adapters.fingerprints import fingerprint
from csd_nerf.adapters.reporter import Reporter, SilentReporter
from csd_nerf.adapters.run_files import RunFiles
from csd_nerf.core.ranks import Ranks
from csd_nerf.media.files import unfinished, written_whole

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
        return RunFiles((source,), output, settings, command, fingerprint(source))

    return run_files


@pytest.fixture
def make(run_files):
    def make(
        *, settings=SETTINGS, resume=False, overwrite=False, weights=None, **options
    ) -> FileReporter:
        """The reporter of a run, after a look at what lies there."""
        files = run_files(settings)
        found = files.look(resume=resume, overwrite=overwrite)
        files.weights = weights
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
    # Neither its times nor what is no picture matter.
    os.utime(source / "1.png", (1, 1))
    (source / "notes.txt").write_text("mine")
    assert make(resume=True).resuming
    (source / "2.png").write_bytes(b"two")
    with pytest.raises(ValueError, match="got an input of other contents"):
        make(resume=True)


@pytest.mark.parametrize("damage", ["cut", "bit", "done", "field"])
def test_a_damaged_state_ends_in_one_line(make, tmp_path, damage):
    with make() as reporter:
        work(reporter, 2)
    path = tmp_path / "out" / "river.png.state.pt"
    saved = torch.load(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "bit":
        # In the middle of the latent's numbers.
        content = bytearray(path.read_bytes())
        content[content.index(torch.full((2,), 2.0).numpy().tobytes())] ^= 1
        path.write_bytes(content)
    else:
        saved |= {"done": 999} if damage == "done" else {"other": 1}
        with written_whole(path) as temporary:
            torch.save(saved, temporary)
    with pytest.raises(ValueError, match=r"--resume needs a whole state, got .*; add"):
        make(resume=True)
    assert not make(resume=True, overwrite=True).resuming


@pytest.mark.parametrize("name", ["river.png.state.pt", "river.png.json", "river.png.preview.png"])
@pytest.mark.parametrize("content", ["text", "kind"])
def test_a_file_of_the_users_is_never_taken_for_ours(make, tmp_path, name, content):
    path = tmp_path / "out" / name
    if content == "text":
        path.write_text("[1, 2]")
    elif name.endswith(".pt"):
        torch.save({"mine": torch.zeros(2)}, path)
    elif name.endswith(".json"):
        path.write_text('{"settings": {}, "output": "mine"}')
    else:
        Image.new("RGB", (4, 4)).save(path)
    before = path.read_bytes()
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match=f"{name} has the name of a file that the run wr"):
            make(**options)
    assert path.read_bytes() == before


def test_a_record_without_its_result_is_replaced_only_when_asked(make, run_files, tmp_path):
    (tmp_path / "out" / "river.png").write_bytes(b"edited")
    run_files().finish({}, notices=[], seconds=1.0)
    (tmp_path / "out" / "river.png").unlink()
    for options in ({}, {"resume": True}):
        with pytest.raises(FileExistsError, match=r"got .*river.png.json; pass --overwrite"):
            make(**options)
    make(overwrite=True)


def test_an_input_with_the_name_of_a_file_that_is_written_is_refused(run_files, tmp_path):
    out = tmp_path / "out"
    for name in ("river.png", "river.png.json", "river.png.state.pt", "river.png.preview.png"):
        with pytest.raises(
            ValueError,
            match=f"a file that the run writes, nor another output, got .*{name}",
        ):
            run_files().check_apart_from([tmp_path / "in" / "river.jpg", out / "." / name])
    run_files().check_apart_from([tmp_path / "in" / "river.jpg", out / "other.png"])


def test_a_state_of_other_weights_or_versions_is_refused(make, run_files, monkeypatch):
    with make(weights="a") as reporter:
        work(reporter, 2)
    assert make(resume=True, weights="a").restored()["done"] == 2
    with pytest.raises(ValueError, match="made with, got a prior with other weights;"):
        make(resume=True, weights="b").restored()
    monkeypatch.setattr(run_files_module, "versions", lambda names: dict.fromkeys(names, "9"))
    with pytest.raises(ValueError, match=r"got .*torch 9 instead of "):
        make(resume=True)


def test_a_result_that_was_replaced_by_another_is_not_believed(make, run_files, tmp_path):
    output = tmp_path / "out" / "river.png"
    output.write_bytes(b"edited")
    run_files().finish({}, notices=[], seconds=1.0)
    assert run_files().look(resume=True, overwrite=False) == "result"
    output.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"was made with, got another .*river.png;"):
        run_files().look(resume=True, overwrite=False)
    assert run_files().look(resume=True, overwrite=True) == "nothing"


def test_nothing_is_left_of_an_earlier_kill_after_success(run_files, tmp_path):
    files = run_files()
    files.output.write_bytes(b"edited")
    for path in (files.state, files.record, files.preview, files.output):
        unfinished(path).write_bytes(b"half")
    files.finish({}, notices=[], seconds=1.0)
    assert names(tmp_path) == {"river.png", "river.png.json"}


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
        with Image.open(tmp_path / "out" / "river.png.preview.png") as preview:
            assert preview.size == (2, 2)
        (tmp_path / "out" / "river.png").touch()
        reporter.note("enlarged")
        reporter.note("enlarged")
        told = ["cut off", *reporter.notices]
        run_files().finish({"evaluations": 12}, notices=told, seconds=reporter.seconds)
    assert names(tmp_path) == {"river.png", "river.png.json"}
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
    (tmp_path / "out" / "river.png").touch()
    run_files().finish({}, notices=[], seconds=1.0)
    assert run_files().look(resume=True, overwrite=False) == "result"
    with pytest.raises(ValueError, match="got --seed 6 instead of 5"):
        make(settings={**SETTINGS, "seed": 6}, resume=True)
    path = tmp_path / "out" / "river.png.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "input": ["mine"]}))
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_wait_for_the_step_and_save_it(make, capsys, number):
    def interrupted() -> None:
        with make(save_every=100) as reporter:
            work(reporter, 2)
            os.kill(os.getpid(), number)
            reporter.tick(3, state=lambda: {"latent": torch.zeros(1)})

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(number) is before
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


class Agreeing(Ranks):
    """Rank 0 of two that share an input; the other one has nothing to tell."""

    def any(self, flag):
        return flag

    def together(self, work):
        return work()


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("saves", [True, False])
def test_a_rank_stops_only_where_all_agree(make, steps, saves):
    # Elsewhere the others would wait for its part in another call.
    reached = []

    def interrupted() -> None:
        with make(ranks=Agreeing(0, 2), launched=True) as reporter:
            work(reporter, steps)
            # torchrun repeats a signal.
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                reached.append(1)
            reporter.tick(steps + 1, state=dict if saves else None)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(reached) == 2


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


def test_a_clock_goes_on_while_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr(file_reporter, "_CLOCK_SECONDS", 0.01)
    shown, began = "", time.monotonic()
    with clock("Loading"):
        while shown.count("Loading ... 00:0") < 4 and time.monotonic() - began < 9:
            shown += capsys.readouterr().err
    assert shown.count("Loading ... 00:0") >= 4
    assert "\n" not in shown + capsys.readouterr().err
    with clock("Loading", shown=False):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_short_reading_shows_no_bar_and_a_long_one_its_share(monkeypatch, capsys):
    with byte_bar("read") as told:
        told(1, 2)
    assert capsys.readouterr().err == ""
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with byte_bar("read") as told:
        now[0] += 5
        told(512, 2048)
    assert "read:  25%" in capsys.readouterr().err
    with byte_bar("read", shown=False) as told:
        now[0] += 5
        told(512, 2048)
    assert capsys.readouterr().err == ""
