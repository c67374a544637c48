"""What jobs work with, and what each of them reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from featurestore.clock import Clock
from featurestore.definitions import FeatureView, Project
from featurestore.definitions.project import row_fingerprint
from featurestore.online.view import OnlineView
from featurestore.registry.catalog import Registry

Progress = Callable[[str, int, int | None], None]
"""Called with ``<views>: <what>``, how much is done, and how much there is (None: not known).

Of a job: ``started`` or ``going on with job <n>``, ``reading <n> rows`` as they come, ``read <n> rows`` with the chunks
read and of how many, ``logged``, ``online <view>`` and ``done``.
"""


def no_hook(step: str) -> None:
    """Do nothing after a step."""


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """What jobs work with.

    Attributes
    ----------
    registry
        Records jobs and cuts.
    project
        The applied definitions, their code loaded.
    offline_root
        The offline store's folder.
    repo_path
        Folder that sources' relative paths start from.
    clock
        Tells when a job started and when a cut came into force.
    wall
        The machine's time in microseconds since the epoch, also where `clock` is another: leases run out by it.
    online
        Gives a view's online state, or None where the view is not kept online.
    max_future_skew
        How far an event's time may be ahead of its arrival, in microseconds.
    connection
        Gives the settings of a named connection of batch sources.
    hook
        Called with the name of each step once it is done: ``started``, ``chunk:<n>``, ``read``, ``ranked``,
        ``rejected``, ``logged``, ``recorded``, per view ``online:<view>``, ``cut:<view>`` and ``view:<view>``, and
        ``done``. Tests raise in it.
    """

    registry: Registry
    project: Project
    offline_root: Path
    repo_path: Path
    clock: Clock
    wall: Callable[[], int]
    online: Callable[[FeatureView], OnlineView | None]
    max_future_skew: int
    connection: Callable[[str], Mapping[str, Any]]
    hook: Callable[[str], None] = no_hook

    def readers_of(self, fingerprint: str) -> list[FeatureView]:
        """Return the applied views that read a log, by name."""
        views = sorted(self.project.feature_views.values(), key=lambda view: view.name)
        return [view for view in views if row_fingerprint(view) == fingerprint]


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one job did.

    Attributes
    ----------
    view
        The views that read the log it wrote, by name, separated by commas.
    job
        Its number among the jobs of its log.
    start, end
        The range of event times it covered, in microseconds, half-open.
    rows
        Rows it put into the log.
    rejected
        Records it put into the dead letters.
    reasons
        Why, for the first of them.
    dropped
        Records that the transform mapped to no row.
    keys
        Keys that have, or had, rows in the range.
    seconds
        How long it took.
    cut
        The cut in force afterwards, in microseconds: of several lambda views the least; None without any.
    """

    view: str
    job: int
    start: int
    end: int
    rows: int
    rejected: int
    dropped: int
    keys: int
    seconds: float
    cut: int | None
    reasons: tuple[str, ...] = ()
