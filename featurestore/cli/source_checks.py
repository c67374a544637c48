"""Looks at a source the way that jobs will: is it there, and does it have what the views of a project need of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featurestore.cli.output import count
from featurestore.config import Config
from featurestore.definitions import BatchSource, FeatureView, FileStreamSource, Project, RequestSource, Source
from featurestore.errors import FeatureStoreError, SourceError, suggest
from featurestore.types import UnixTimestamp

if TYPE_CHECKING:
    from featurestore.materialize.readers import SourceReader, Wanted


@dataclass
class SourceFinding:
    """What was found out about a source.

    Attributes
    ----------
    name, location
        The source, and where it is.
    views
        The views that read it.
    columns
        The columns that they need and that are there, in types that fit.
    rows
        The rows that were looked at.
    unusable
        Those of them that a job would reject.
    error
        What is wrong; "" if nothing is.
    is_table
        Whether it is a batch source, whose rows can be looked at.
    """

    name: str
    location: str
    views: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: int = 0
    unusable: int = 0
    error: str = ""
    is_table: bool = True

    @property
    def ok(self) -> bool:
        """Whether jobs can read it."""
        return not self.error

    @property
    def detail(self) -> str:
        """The finding in one line."""
        if self.error:
            return self.error
        bad = f", {self.unusable:,} of them unusable" if self.unusable else ""
        fitting = f"; {', '.join(self.columns)} as declared" if self.columns else ""
        sampled = f": {count(self.rows, 'row')} sampled{bad}" if self.is_table else ""
        return f"{self.location}{sampled}{fitting}"


def sources_of(project: Project) -> list[Source]:
    """Return the sources that rows are read from, by name."""
    found = {source.name: source for source in project.sources.values() if not isinstance(source, RequestSource)}
    for view in project.feature_views.values():
        if view.batch_source is not None:  # the history of a push or stream source is not listed on its own
            found.setdefault(view.batch_source.name, view.batch_source)
    return [found[name] for name in sorted(found)]


def open_source(config: Config, source: BatchSource) -> SourceReader:
    """Return a reader of a source, through its connection."""
    from featurestore.materialize.readers import SourceReader

    return SourceReader(source, config.repo_path, config.connection(source.connection))


def check_source(config: Config, project: Project, source: Source) -> SourceFinding:
    """Open a source as each view that reads it would, and look at its first rows; raises nothing of ours."""
    if not isinstance(source, BatchSource):
        return _check_stream(config, source)
    views = [view for view in project.feature_views.values() if view.batch_source == source]
    finding = SourceFinding(source.name, source.location, [view.name for view in views])
    try:
        with open_source(config, source) as reader:
            for view in views:
                _look(reader, view, finding)
            if not views:
                _look(reader, None, finding)
    except FeatureStoreError as error:
        finding.error = str(error)
    finding.columns = list(dict.fromkeys(finding.columns))
    return finding


def _check_stream(config: Config, source: Source) -> SourceFinding:
    if not isinstance(source, FileStreamSource):
        return SourceFinding(source.name, "rows are handed to it", is_table=False)
    path = config.resolve(source.path)
    error = "" if path.is_file() else f"there is no file {path}"
    return SourceFinding(source.name, source.path, error=error, is_table=False)


def _look(reader: SourceReader, view: FeatureView | None, finding: SourceFinding) -> None:
    """Look at the first rows as a view reads them, or at their times where there is no view."""
    if view is not None and view.code is not None:
        records = next((part for part in reader.records(_ignore) if part), [])
        finding.rows = max(finding.rows, len(records))
        _check_times(reader.source, {name for record in records for name in record})
        return
    wanted = _wanted(reader, view)
    chunk = next((chunk for chunk in reader.typed(wanted, _ignore) if len(chunk.columns[0])), None)
    finding.columns += [item.column for item in wanted]
    if chunk is None:
        return
    rows = len(chunk.columns[0])
    finding.rows = max(finding.rows, rows)
    finding.unusable = max(finding.unusable, len(chunk.bad))
    if len(chunk.bad) == rows:
        raise SourceError(f"of its first {count(rows, 'row')} none can be used: {chunk.bad[0]}")


def _check_times(source: BatchSource, known: set[str]) -> None:
    for name in (source.timestamp_field, source.created_timestamp_column):
        mapped = source.field_mapping.get(name, name)
        if name and known and mapped not in known:
            raise SourceError(f"source {source.name!r} has no column {mapped!r}{suggest(mapped, known)}")


def _wanted(reader: SourceReader, view: FeatureView | None) -> list[Wanted]:
    from featurestore.materialize.readers import Wanted

    source = reader.source
    fields = [] if view is None else [*view.join_keys, *view.columns]
    wanted = [Wanted(item.name, reader.column(item.name), item.dtype) for item in fields]
    wanted.append(Wanted("event_timestamp", reader.time_column(source.timestamp_field), UnixTimestamp))
    if source.created_timestamp_column:
        created = reader.time_column(source.created_timestamp_column)
        wanted.append(Wanted("arrival", created, UnixTimestamp))
    return wanted


def _ignore(_: object) -> None:
    """Pass over a record that cannot be read; jobs reject and count it."""
