"""What the jobs of one log work with, while it is leased."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from featurestore.definitions import FeatureView
from featurestore.definitions.sources import BatchSource
from featurestore.errors import OfflineStoreError
from featurestore.materialize.context import JobContext, Progress
from featurestore.materialize.lease import Lease
from featurestore.materialize.readers import SourceReader
from featurestore.materialize.rows import RowReader
from featurestore.offline.log import RowLog
from featurestore.registry.progress import Job


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the jobs of one log work with.

    Attributes
    ----------
    context
        What all jobs work with.
    log, view, names
        The log, one of the views that read it, and the names of all of them.
    lease
        The lease of the log.
    progress
        Called as a job gets on.
    """

    context: JobContext
    log: RowLog
    view: FeatureView
    names: str
    lease: Lease
    progress: Progress | None

    @property
    def source(self) -> BatchSource:
        """The batch source."""
        if self.view.batch_source is None:
            raise OfflineStoreError(f"view {self.view.name!r} has no batch source to materialize from")
        return self.view.batch_source

    @contextmanager
    def open(self) -> Iterator[SourceReader]:
        """Open the batch source."""
        settings = self.context.connection(self.source.connection)
        with SourceReader(self.source, self.context.repo_path, settings) as source:
            yield source

    def rows(self, source: SourceReader) -> RowReader:
        """Return a new reader of the source's rows."""
        return RowReader(self.view, source, self.context.max_future_skew)

    def jobs(self) -> list[Job]:
        """Return the jobs of the log that this project started."""
        return self.context.registry.jobs(self.log.fingerprint)

    def move(self, number: int, state: str) -> None:
        """Record a job's state, while the lease is held."""
        self.context.registry.update_job(self.log.fingerprint, number, state, token=self.lease.token)

    def tell(self, step: str, done: int = 0, total: int | None = None) -> None:
        """Report a step."""
        if self.progress is not None:
            self.progress(f"{self.names}: {step}", done, total)
