"""Takes over the options of a run that is loaded, without those that the user gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from csd_nerf.media import run_config
from csd_nerf.methods.common.errors import MethodError


def read_run_config(checkpoint: Path) -> TrainerConfig | None:
    """Read the config.yml of the run that a checkpoint belongs to; None if it has none.

    Raises:
        MethodError: If the file can't be read, or is not of nerfstudio.
    """
    path = checkpoint.parent.parent / "config.yml"
    if not path.is_file():
        return None
    try:
        config = run_config.read_run_config(path)
    except ValueError as error:
        raise MethodError(str(error)) from None
    if not isinstance(config, TrainerConfig):
        raise MethodError(f"{path} is not the config of a nerfstudio run.")
    return config


def preset_of(method: str | None) -> TrainerConfig | None:
    """The config of a method before the user's options; None if nerfstudio doesn't know it."""
    # Late: it imports the configs of all methods, the callers' among them.
    from nerfstudio.configs.method_configs import all_methods

    return all_methods.get(method) if method is not None else None


@dataclasses.dataclass(frozen=True)
class Sides:
    """The same part of four configs."""

    ours: Any
    """Of this run; `Adopted` changes its fields in place."""
    theirs: Any
    """Of the loaded run."""
    usual: Any
    """Of this run's method before the user's options."""
    their_usual: Any
    """Of the loaded run's method before its user's options."""

    def at(self, name: str) -> Sides:
        """A field, or an entry of a dictionary."""
        return Sides(*(_part(side, name) for side in self.all))

    @property
    def all(self) -> tuple[Any, Any, Any, Any]:
        """All four, in the order of the fields."""
        return self.ours, self.theirs, self.usual, self.their_usual

    @property
    def names(self) -> list[str]:
        """Names of the parts that all four have; none of a value that has no parts."""
        if all(isinstance(side, Mapping) for side in self.all):
            return [key for key in self.ours if all(key in side for side in self.all)]
        if dataclasses.is_dataclass(self.ours) and len({type(side) for side in self.all}) == 1:
            return [f.name for f in dataclasses.fields(self.ours) if f.name != "_target"]
        return []


@dataclasses.dataclass
class Adopted:
    """What became of the options of a loaded run.

    Attributes:
        fixed: Names of options that can't differ from the loaded run's.
        taken: Options that were given to the loaded run and are taken over, with their values.
        kept: The user's options that stayed, with their values, and those of the loaded run.
        refused: The user's options that could not be honoured, in the same form.
    """

    fixed: tuple[str, ...] = ()
    taken: dict[str, Any] = dataclasses.field(default_factory=dict)
    kept: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    refused: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def take(self, sides: Sides, names: Iterable[str], path: str) -> None:
        """Take over fields as they are in the loaded run, except where the user gave an option.

        Args:
            sides: What the fields are of.
            names: The fields. All parts of them that are configs themselves are taken.
            path: Of the command line's option, such as `pipeline.model`.
        """
        self._take(sides, names, path, only_given=False)

    def take_given(self, sides: Sides, names: Iterable[str], path: str) -> None:
        """Like `take`, but only fields that were given to the loaded run; they are told."""
        self._take(sides, names, path, only_given=True)

    def _take(self, sides: Sides, names: Iterable[str], path: str, *, only_given: bool) -> None:
        for name in names:
            where = f"{path}.{name}" if path else name
            value = self._choose(sides.at(name), name, where, only_given=only_given)
            _set_part(sides.ours, name, value)

    def _choose(self, sides: Sides, name: str, path: str, *, only_given: bool) -> Any:
        """The value that this run is to have."""
        if parts := sides.names:
            chosen = {
                part: self._choose(sides.at(part), part, f"{path}.{part}", only_given=only_given)
                for part in parts
            }
            if isinstance(sides.ours, Mapping):
                return {**sides.ours, **chosen}
            return dataclasses.replace(sides.ours, **chosen)
        ours, theirs, usual, their_usual = sides.all
        option = "--" + path.replace("_", "-")
        if only_given:
            if ours != usual or theirs in (their_usual, ours):
                return ours
            self.taken[option] = theirs
        elif ours != usual and ours != theirs:
            told = self.refused if name in self.fixed else self.kept
            told[option] = (ours, theirs)
            return theirs if name in self.fixed else ours
        return theirs

    def misfit_remedy(self, usual: str) -> str:
        """What to do if the checkpoint doesn't fit the model; `usual` if no option is to blame."""
        given = [option for option in self.kept if option.startswith("--pipeline.model.")]
        return f"leave out {', '.join(given)}" if given else usual

    def notices(self) -> list[str]:
        """What the user may not expect, without full stops."""
        found = [
            f"{option} {value} is taken over from the loaded run"
            for option, value in self.taken.items()
        ]
        found += [
            f"{option} {ours} stays as given, the loaded run had {theirs}"
            for option, (ours, theirs) in self.kept.items()
        ]
        return found + [
            f"{option} {ours} can't be honoured, since the loaded scene was trained with {theirs}"
            for option, (ours, theirs) in self.refused.items()
        ]


def _part(whole: Any, name: str) -> Any:
    # A dataparser of another kind has other options.
    return whole[name] if isinstance(whole, Mapping) else getattr(whole, name, None)


def _set_part(whole: Any, name: str, value: Any) -> None:
    if isinstance(whole, dict):
        whole[name] = value
    else:
        setattr(whole, name, value)
