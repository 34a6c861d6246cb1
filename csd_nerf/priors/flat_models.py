"""Models beside the priors whose files lie at the top of a folder or of a repository on the hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from csd_nerf.priors.hub import HubError, cached_file, download, list_files
from csd_nerf.priors.names import hub_id


@dataclass(frozen=True)
class FlatModels:
    """A kind of such models: how they are found, in the hub's cache or by download."""

    names: Mapping[str, str]
    """Repository of each short name."""
    config: str
    """Name of the configuration's file."""
    choose: Callable[[Collection[str]], tuple[list[str], str]]
    """Of the files that are there those to load, or else a phrase for what is missing."""
    not_found: Callable[[str, str, str | None], Exception]
    """The error for missing weights: of a name, what is missing, and the repository if known."""

    def repository(self, name: str | Path) -> str | None:
        """The hub repository of a name; None for local folders."""
        return self.names.get(str(name)) or hub_id(name)

    def fetched(self, repo: str) -> Path:
        """The folder of a repository's files; those that are not in the cache are downloaded.

        Raises:
            Exception: From `not_found`, if they can't be had.
        """
        return self._cached(repo) or self._download(repo, None, lambda _: None)

    def fetch_to(self, name: str, folder: Path | None, *, tell: Callable[[str], None]) -> Path:
        """Download exactly the files that a model needs, as `weights.fetch_to` does of a prior.

        Args:
            name: A short name.
            folder: Where to write them; None means the hub's cache.
            tell: Called with the size, before anything is downloaded.

        Raises:
            Exception: From `not_found`, if they can't be had.
        """
        repo = self.names[name]
        if folder is None and (cached := self._cached(repo)) is not None:
            tell(f"{repo} is at hand already, in {cached}")
            return cached
        return self._download(repo, folder, tell)

    def _cached(self, repo: str) -> Path | None:
        """The snapshot in the hub's cache if it is complete; doesn't use the network."""
        config = cached_file(repo, self.config)
        if config is None or self.choose(files_in(config.parent))[1]:
            return None
        return config.parent

    def _download(self, repo: str, folder: Path | None, tell: Callable[[str], None]) -> Path:
        try:
            files = list_files(repo)
            needed, missing = self.choose(files)
            if needed:
                total = sum(files[name] for name in needed)
                where = "the hub's cache" if folder is None else str(folder)
                tell(f"{repo}: {len(needed)} files of {total / 1e9:.1f} GB go to {where}")
                return download(repo, needed, folder=folder)
        except HubError as error:
            raise self.not_found(repo, str(error), repo) from None
        raise self.not_found(repo, f"the hub's repository lacks {missing}", None)


def files_in(folder: Path) -> list[str]:
    """Names of the files of a folder."""
    return [path.name for path in folder.iterdir() if path.is_file()]
