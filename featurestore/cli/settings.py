"""What every command is handed: the repository it works on, and how a store is opened there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.clock import Clock, SystemClock

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


def _open(repo: Path) -> FeatureStore:
    from featurestore.store import FeatureStore

    return FeatureStore(repo_path=repo)


@dataclass
class Settings:
    """The global options, and the two things that tests put in place of the real ones.

    Attributes
    ----------
    repo
        The folder that holds ``feature_store.yaml``.
    open_with
        Opens the store of a repository.
    clock
        Tells the time; the command line is the outermost edge, so it may read the machine's.
    """

    repo: Path = Path()
    open_with: Callable[[Path], FeatureStore] = _open
    clock: Clock = field(default_factory=SystemClock)

    def open(self) -> FeatureStore:
        """Open the store until the command ends; raises a `FeatureStoreError` where that is not possible."""
        store = self.open_with(self.repo)
        click.get_current_context().call_on_close(store.close)
        return store
