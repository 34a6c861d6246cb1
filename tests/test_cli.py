from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from csd_nerf import __main__, cli

HEAVY = ("torch", "nerfstudio", "diffusers", "transformers", "numpy")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "csd_nerf", *arguments], capture_output=True, text=True
    )


def modules_loaded_by(*statements: str, code: int = 0) -> list[set[str]]:
    """Heavy modules after each statement, all in one process, since each takes a while to start."""
    script = "import sys\n" + "".join(
        f"try:\n    {statement}\n"
        f"except SystemExit as stop:\n    assert (stop.code or 0) == {code}\n"
        "print('\\nloaded:', *sys.modules)\n"
        for statement in statements
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("loaded:")]
    assert len(lines) == len(statements)
    return [{*line.split()} & {*HEAVY} for line in lines]


IMPORT = "from csd_nerf.cli import main"


def test_help_loads_no_heavy_library():
    helps = ["--help"], *([name, "-h"] for name in cli.COMMANDS)
    assert not any(modules_loaded_by(IMPORT, *(f"main({words})" for words in helps)))


def test_a_mistake_in_an_option_is_found_without_a_heavy_library():
    rest = ["in", "--output", "out", "--preset", "tiny", "--batch", "0"]
    mistakes = [f"main({[command, *rest]})" for command in ("panorama", "video", "image")]
    assert not any(modules_loaded_by(IMPORT, *mistakes, code=1))


ABSENT = {
    "panorama rivr.jpg --output o.png --prompt x": "river.jpg",
    "panorama river.jpg --region fog@mosk.png --output o.png": "mask.png",
    "video brake --output o.mp4 --prompt x": "break",
    "image rivr.jpg --output o.png --prompt x": "river.jpg",
    "preview --data brake --output o --prompt x": "break",
    "evaluate --source rivr.jpg --edited river.jpg --output o.json": "river.jpg",
    "evaluate --source river.jpg --edited a=rivr.jpg --output o.json": "river.jpg",
    "evaluate --source river.jpg --edited river.jpg --truth brek --output o.json": "break",
    "compare --load-config confg.yml --output o": "config.yml",
}
"""Calls with a mistyped path, and what was meant."""


@pytest.fixture
def few_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("river.jpg", "mask.png", "config.yml"):
        (tmp_path / name).touch()
    (tmp_path / "break").mkdir()


@pytest.mark.parametrize("command", ABSENT)
def test_a_mistyped_path_is_found_without_a_heavy_library(few_files, command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert told.endswith(f", which does not exist; did you mean {ABSENT[command]}?\n")
    assert told.count("\n") == 1


def test_paths_are_looked_at_before_a_heavy_library_is_imported(few_files, tmp_path, monkeypatch):
    """One process for all, since each takes a while to start."""
    monkeypatch.undo()
    calls = "; ".join(f"call({command.split()})" for command in ABSENT)
    script = (
        "def call(words):\n    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        f"import os, sys\nfrom csd_nerf.cli import main\nos.chdir({str(tmp_path)!r})\n"
        f"{calls}\nprint('loaded:', *sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stderr.count("did you mean") == len(ABSENT)
    assert not {*result.stdout.partition("loaded:")[2].split()} & {*HEAVY}


@pytest.mark.parametrize("command", ["panorama", "video", "image"])
def test_pipes_are_refused_before_they_are_read(tmp_path, capsys, command):
    pipe = tmp_path / "in.png"
    os.mkfifo(pipe)
    with pytest.raises(SystemExit):
        cli.main([command, str(pipe), "--output", "out.png", "--prompt", "x"])
    assert f"got {pipe}, which is a pipe or a device." in capsys.readouterr().err


def test_inputs_that_are_there_are_edited_though_others_are_not(few_files, monkeypatch):
    monkeypatch.setattr("csd_nerf.adapters.run.run_panoramas", lambda *_, **__: 5)
    with pytest.raises(SystemExit) as stop:
        cli.main(["panorama", "rivr.jpg", "river.jpg", "--output", "out", "--prompt", "x"])
    assert stop.value.code == 5


def test_the_overview_has_every_command_in_a_group_with_what_it_does(capsys):
    for given, code in ((["-h"], 0), (["--help"], 0), ([], 1)):
        with pytest.raises(SystemExit) as stop:
            cli.main(given)
        assert stop.value.code == code
        told = capsys.readouterr().out
        for name, kind in cli.COMMANDS.items():
            assert re.search(rf"^  {name} +{re.escape(kind.__doc__.splitlines()[0])}$", told, re.M)
        for group in cli.GROUPS:
            assert f"\n{group}:\n" in told
    assert {*cli.COMMANDS} == {name for group in cli.GROUPS.values() for name in group}


def test_every_command_says_what_it_does_in_one_short_line():
    for kind in cli.COMMANDS.values():
        line = kind.__doc__.splitlines()[0]
        assert line.endswith(".")
        assert len(line) <= 90


@pytest.mark.parametrize("second", ["--edited", "--edited=b.png"])
def test_values_of_an_option_that_is_given_twice_are_not_dropped_in_silence(capsys, second):
    given = ["evaluate", "--source", "a.png", "--edited", "a.png", "--output", "o.json", second]
    with pytest.raises(SystemExit):
        cli.main([*given, *([] if "=" in second else ["b.png"])])
    assert capsys.readouterr().err == (
        "csd-nerf: --edited takes all its values at once, got it 2 times; write --edited A B.\n"
    )


def test_regions_and_prompts_may_be_given_several_times(capsys):
    regions = ["--region", "fog@0,0,9,9", "--region", "snow@9,0,20,9"]
    with pytest.raises(SystemExit):
        cli.main(["panorama", "absent.png", "--output", "o.png", *regions])
    assert "absent.png, which does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("terminal", "command"), [(True, "doctor"), (False, "doctor"), (True, "edits")]
)
def test_who_waits_at_a_terminal_is_told_why(monkeypatch, capsys, terminal, command):
    monkeypatch.setattr(cli.COMMANDS[command], "run", lambda self: None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    cli.main([command])
    told = capsys.readouterr().err
    assert (told == "csd-nerf doctor: loading libraries ...\n") == (
        terminal and command == "doctor"
    )
    assert told == "" or (terminal and command == "doctor")


def test_a_similar_subcommand_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["panoramma", "x"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith("got panoramma; did you mean panorama?\n")


def test_a_similar_edit_is_named(capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(["demo", "--output", str(tmp_path), "--edit", "flor wood"])
    assert (
        "got 'flor wood'; did you mean floor wood? csd-nerf edits lists" in capsys.readouterr().err
    )


def test_the_known_edits_are_listed_without_a_heavy_library(capsys):
    assert not any(modules_loaded_by(f"{IMPORT}; main(['edits'])"))
    cli.main(["edits"])
    told = capsys.readouterr().out
    for line in ("make it night", "add fog", "make the floor lava", "make the sky pink"):
        assert f"  {line}\n" in told or f" {line}\n" in told
    assert "paint cube           paint the cube\n" in told
    assert "a turquoise cone\n" in told


@pytest.mark.parametrize("command", ["panorama", "video", "image"])
def test_without_weights_the_preset_that_needs_none_is_named(
    few_files, monkeypatch, capsys, command
):
    from csd_nerf.adapters import run
    from csd_nerf.priors import WeightsNotFoundError

    def fails(*_: object, **__: object) -> None:
        raise WeightsNotFoundError("No weights: `hf download x`. The option is --prior.")

    monkeypatch.setattr(run, f"run_{command}s", fails)
    given = [command, "river.jpg", "--output", "o.png", "--prompt", "x"]
    with pytest.raises(SystemExit):
        cli.main(given)
    told = capsys.readouterr().err
    assert "hf download x`. The option is --prior. Without them, --preset tiny runs" in told
    for options in (["--preset", "tiny"], ["--residual", "dds", "--source-prompt", "a"]):
        with pytest.raises(SystemExit):
            cli.main([*given, *options])
        assert "--preset tiny" not in capsys.readouterr().err


def test_the_check_of_heavy_libraries_can_fail():
    assert modules_loaded_by("import json", "import numpy") == [set(), {"numpy"}]


@pytest.mark.parametrize("where", ["csd_nerf.cli.tyro.cli", "csd_nerf.cli.SyntheticSettings.run"])
def test_ctrl_c_ends_in_one_line_and_130(monkeypatch, capsys, tmp_path, where):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["synthetic", "--output", str(tmp_path / "out")])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "csd-nerf: interrupted.\n"


def test_ctrl_c_while_the_command_is_imported(monkeypatch, capsys):
    def interrupted(name: str, *_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["csd-nerf", "--help"])
    monkeypatch.setattr("builtins.__import__", interrupted)
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    monkeypatch.undo()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "csd-nerf: interrupted.\n"


def test_a_reader_that_has_enough_is_no_mistake():
    command = [sys.executable, "-m", "csd_nerf", "edits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_version_is_told():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"csd-nerf {version('csd_nerf')}\n")


def test_the_module_is_the_command_and_its_help_names_the_subcommands():
    result = run("--help")
    assert result.returncode == 0
    for name in ("synthetic", "compare", "demo", "panorama", "video", "evaluate", "edits"):
        assert name in result.stdout
    assert "usage: csd-nerf" in result.stdout


def test_a_data_set_is_written(tmp_path, capsys):
    output = tmp_path / "scene"
    cli.main(
        f"synthetic --output {output} --edit sepia --scene 2 --views 8 --size 16".split(),
    )
    assert capsys.readouterr().out == f"Wrote 8 views to {output}.\n"
    record = json.loads((output / "edit.json").read_text())
    assert (record["edit"], record["scene"], record["size"]) == ("sepia", 2, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("synthetic --output DIR/new --edit cat", "An edit must be one whose true result is known"),
        ("synthetic --output DIR/new --size 4", "size must be at least 16 pixels, got 4."),
        ("synthetic --output DIR", "The output folder must be a new one"),
        ("compare --load-config DIR/config.yml --output DIR/out", "--load-config needs the config"),
        ("demo --output DIR/demo --edit cat", "An edit must be one whose true result is known"),
        ("demo --output DIR/demo --scene -1", "scene must be from 0 to"),
        ("evaluate --source s --edited e --output DIR/r.csv", "--output must end in .json, got"),
        ("panoramma x", "The subcommand must be one of demo, scene,"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_1(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.replace("DIR", str(tmp_path)).split())
    assert stop.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"csd-nerf: {message}")
    assert output.err.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_mistake_shows_no_traceback_in_a_process_of_its_own(tmp_path):
    result = run("image", str(tmp_path), "--output", str(tmp_path), "--batch", "0")
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("our fault")

    monkeypatch.setattr("csd_nerf.synthetic.dataset.write_dataset", broken)
    with pytest.raises(RuntimeError, match="our fault"):
        cli.main(["synthetic", "--output", "unused"])


def test_a_demo_whose_training_fails_says_so(tmp_path, capsys, monkeypatch):
    commands = []

    def fails(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", fails)
    options = ["--", "--pipeline.edit.text-scale", "5"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--output", str(tmp_path), "--edit", "night", "--size", "16", *options])
    assert stop.value.code == 1
    assert "ns-train must end with status 0, got 3" in capsys.readouterr().err
    assert commands[0][0].endswith("/ns-train")
    assert commands[0][1] == "csd-edit-splat-tiny"
    assert commands[0][-4:] == ["--pipeline.prompt", "make it night", *options[1:]]
    assert (tmp_path / "data" / "transforms.json").is_file()


@pytest.mark.parametrize("command", ["panorama", "video", "image"])
def test_the_help_of_an_edit_shows_no_internals(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out.replace("--no-keep-detail", "")
    assert "INPUT..." in told
    for option in ("--output", "--prompt", "--preset", "--resume", "--max-batch", "--save-every"):
        assert option in told
    for internal in ("None", "options options", "--options", "--no-", "(default: )"):
        assert internal not in told


def test_options_reach_the_run_as_given(monkeypatch, tmp_path):
    from csd_nerf.adapters import run

    called = {}

    def run_panoramas(inputs, output, options, *, command):
        called.update(inputs=inputs, output=output, options=options, command=command)
        return 3

    monkeypatch.setattr(run, "run_panoramas", run_panoramas)
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b c.png", "m.png"):
        Path(name).touch()
    given = ["panorama", "a.png", "b c.png", "--output", "out", "--preset", "tiny"]
    given += ["--region", "fog@0,0,50%,9", "--region", "snow@m.png", "--t-range", "0.1", "0.4"]
    with pytest.raises(SystemExit) as stop:
        cli.main(given)
    assert stop.value.code == 3
    assert called["inputs"] == (Path("a.png"), Path("b c.png"))
    assert called["output"] == Path("out")
    assert called["command"] == ["csd-nerf", *given]
    options = called["options"]
    assert type(options).__name__ == "PanoramaOptions"
    assert options.region == ("fog@0,0,50%,9", "snow@m.png")
    assert options.t_range == (0.1, 0.4)
    assert options.values().prior == "tiny"
    assert not options.resume


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], None),
        (["--keep-detail"], True),
        (["--no-keep-detail"], False),
        (["--no_keep_detail"], False),
    ],
)
def test_an_option_may_be_yes_no_or_neither(monkeypatch, tmp_path, given, kept):
    from csd_nerf.adapters import run

    called = {}
    monkeypatch.setattr(
        run,
        "run_panoramas",
        lambda *_, command, **__: called.update(command=command, options=_[2]) or 0,
    )
    (tmp_path / "a.png").touch()
    words = ["panorama", str(tmp_path / "a.png"), *given, "--output", "out", "--prompt", "snow"]
    cli.main(words)
    assert called["options"].keep_detail is kept
    assert called["command"] == ["csd-nerf", *words]


@pytest.mark.parametrize(
    "error",
    [ImportError("no\nav"), MemoryError("too little"), FloatingPointError("inf"), OSError("full")],
)
def test_mistakes_of_every_kind_end_in_one_line(monkeypatch, capsys, tmp_path, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("csd_nerf.adapters.run.run_videos", fails)
    film = tmp_path / "a.mp4"
    film.touch()
    with pytest.raises(SystemExit) as stop:
        cli.main(["video", str(film), "--output", "b.mp4"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"csd-nerf: {' '.join(str(error).split())}\n"
