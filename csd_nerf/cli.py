"""The `csd-nerf` command; imports nothing heavy before a subcommand needs it.

Each subcommand is a dataclass with a `run`, in a module of its room that imports nothing heavy.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from csd_nerf.adapters.commands import ImageCommand, PanoramaCommand, VideoCommand
from csd_nerf.adapters.doctor import DoctorSettings
from csd_nerf.adapters.options import MISTAKES
from csd_nerf.adapters.weights import WeightsSettings
from csd_nerf.evaluation.options import CompareSettings, DemoSettings, EvaluateSettings
from csd_nerf.hints import did_you_mean
from csd_nerf.methods.csd_edit_splat.options import SplatSettings
from csd_nerf.methods.preview.options import PreviewSettings
from csd_nerf.synthetic.options import EditsSettings, SampleSettings, SyntheticSettings

GROUPS: dict[str, dict[str, type]] = {
    "edit": {
        "demo": DemoSettings,
        "scene": SplatSettings,
        "preview": PreviewSettings,
        "panorama": PanoramaCommand,
        "video": VideoCommand,
        "image": ImageCommand,
    },
    "look": {
        "compare": CompareSettings,
        "edits": EditsSettings,
        "weights": WeightsSettings,
        "doctor": DoctorSettings,
    },
    "measure": {"evaluate": EvaluateSettings},
    "make inputs": {"sample": SampleSettings, "synthetic": SyntheticSettings},
}
"""The subcommands as the overview shows them."""
COMMANDS: dict[str, type] = {
    name: kind for group in GROUPS.values() for name, kind in group.items()
}

LIGHT = ("edits",)
"""Those that begin at once; the others import torch first, which takes up to half a minute."""


def overview() -> str:
    """What `csd-nerf -h` prints: each command with the first line of its docstring."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: csd-nerf COMMAND [OPTIONS]", ""]
    for title, group in GROUPS.items():
        lines.append(f"{title}:")
        summaries = {name: (kind.__doc__ or "").splitlines()[0] for name, kind in group.items()}
        lines += [f"  {name:<{width}}{text}" for name, text in summaries.items()]
        lines.append("")
    lines.append("csd-nerf COMMAND -h shows the options of a command.")
    lines.append("Scenes are trained and edited by ns-train csd-edit; see ns-train csd-edit -h.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; without arguments or with -h print the overview."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(0 if given else 1)

    _, count = launched()

    def run(command: Any) -> int | None:
        if isinstance(command, PanoramaCommand | VideoCommand | ImageCommand):
            # They say so themselves once they have found their inputs, also without a terminal.
            return command.run(["csd-nerf", *given])
        if given[0] not in LIGHT and sys.stderr.isatty():
            print(f"csd-nerf {given[0]}: loading libraries ...", file=sys.stderr, flush=True)
        if count > 1:
            raise ValueError(f"{given[0]} runs in one process, got {count}; leave torchrun out.")
        return command.run()

    with _among_ranks() if count > 1 else nullcontext():
        call("csd-nerf", COMMANDS, given, run=run)


def launched() -> tuple[int, int]:
    """The number of this process, from 0, and of all that torchrun or its like has started."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def _among_ranks() -> AbstractContextManager[Any]:
    """The block in which this process takes part in what several do."""
    # Before torch is loaded, as in `call`.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from csd_nerf.core.joining import joined

    return joined("csd-nerf")


def call(
    program: str,
    commands: Mapping[str, type],
    arguments: Sequence[str] | None = None,
    *,
    run: Any = operator.methodcaller("run"),
) -> None:
    """Parse a subcommand's options and run it; a user's mistake ends in one line and exit code 1.

    An unknown subcommand is such a mistake. Ctrl-C ends in one line and exit code 130.

    Args:
        program: Name of the command.
        commands: Dataclass of each subcommand, by its name.
        arguments: The words of the command line; None takes this process's.
        run: Called with the subcommand's object; a result other than 0 or None is the exit code.
    """
    # Before torch is loaded: threads that spin while they wait are slow on cores with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    kinds: list[Any] = [
        Annotated[_unchecked(kind), tyro.conf.subcommand(name)] for name, kind in commands.items()
    ]
    any_of_them: Any = functools.reduce(operator.or_, kinds)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _check_subcommand(given, commands)
        _check_repeated(given, commands)
        parsed: Any = tyro.cli(
            any_of_them,
            prog=program,
            args=_with_values(given, commands),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        checked: Any = type(parsed).__base__
        code = run(checked(**vars(parsed)))
    except BrokenPipeError:
        # Whoever reads the output, such as head, has enough of it. What is still buffered would
        # raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except MISTAKES as error:
        print(f"{program.split()[-1]}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print(f"{program.split()[-1]}: interrupted.", file=sys.stderr)
        code = 130
    if code:
        raise SystemExit(code)


def _with_values(given: Sequence[str], commands: Mapping[str, type]) -> list[str]:
    """Give options of yes, no or neither their values: `--name` means True, `--no-name` False."""
    kind = commands.get(given[0]) if given else None
    hints = {} if kind is None else get_type_hints(kind)
    switches = {
        f"--{no}{name.replace('_', '-')}": value
        for name, hint in hints.items()
        if hint == bool | None
        for no, value in (("", "True"), ("no-", "False"))
    }
    words: list[str] = []
    for word in given:
        plain = word.replace("_", "-")
        if plain in switches:
            words += [f"--{plain[2:].removeprefix('no-')}", switches[plain]]
        else:
            words.append(word)
    return words


def _check_subcommand(arguments: Sequence[str], commands: Mapping[str, type]) -> None:
    first = arguments[0] if arguments else ""
    if first and not first.startswith("-") and first not in commands:
        raise ValueError(
            f"The subcommand must be one of {', '.join(commands)}, got {first}"
            f"{did_you_mean(first, commands)}"
        )


def _check_repeated(arguments: Sequence[str], commands: Mapping[str, type]) -> None:
    """Refuse options of several values that are given more than once: only the last would count."""
    kind = commands.get(arguments[0]) if arguments else None
    hints = {} if kind is None else get_type_hints(kind, include_extras=True)
    words = [word.partition("=")[0].replace("_", "-") for word in arguments]
    for name, hint in hints.items():
        option = f"--{name.replace('_', '-')}"
        kinds = (
            (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
        )
        takes_several = Ellipsis in get_args(kinds[0]) and tyro.conf.UseAppendAction not in kinds[1]
        if takes_several and words.count(option) > 1:
            raise ValueError(
                f"{option} takes all its values at once, got it {words.count(option)} times; write "
                f"{option} A B."
            )


def _unchecked(kind: type) -> type:
    """The same dataclass without its checks: tyro would put a frame round their messages."""

    def no_checks(self: object) -> None:
        pass

    return type(kind.__name__, (kind,), {"__post_init__": no_checks, "__doc__": kind.__doc__})
