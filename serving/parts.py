"""What the API needs of a feature store: `featurestore.store.FeatureStore` is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from featurestore.clock import Clock
from featurestore.config import Config
from featurestore.definitions import FeatureView, Project
from featurestore.offline.log import RowLog
from featurestore.online.contract import OnlineStore
from featurestore.online.view import OnlineView
from featurestore.registry import Registry
from featurestore.semantics.rows import Cut
from featurestore.streaming.push import PushResult


class Store(Protocol):
    """A feature store with the definitions of one revision."""

    config: Config
    clock: Clock

    @property
    def registry(self) -> Registry:
        """The registry."""

    @property
    def online_store(self) -> OnlineStore:
        """The online store."""

    @property
    def revision(self) -> int:
        """The revision of the definitions in use."""

    @property
    def project(self) -> Project:
        """The applied definitions, with their code."""

    def at_revision(self, revision: int) -> Self:
        """Return a store of the same parts, with the definitions as applied at a revision."""

    def online_view(self, view: FeatureView | str) -> OnlineView:
        """Return the online state of a view."""

    def log(self, view: FeatureView | str) -> RowLog:
        """Return the offline log that a view reads."""

    def cuts(self, view: FeatureView) -> list[Cut]:
        """Return the cuts of a lambda view, in the order they came into force."""

    def push(
        self, push_source_name: str, df: Sequence[dict[str, Any]], to: str, *, idempotency_key: str | None
    ) -> PushResult:
        """Write rows into the log and the online store of every view of a push source."""

    def close(self) -> None:
        """Release files and connections."""
