"""The feature store as users hold it: a thin facade over registry, offline log, online store and streams."""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import msgspec

from featurestore.clock import Clock, SystemClock, delta_micros, to_micros
from featurestore.config import Config, load_config
from featurestore.definitions import BatchSource, FeatureService, FeatureView, FileStreamSource, Project, PushSource
from featurestore.definitions.project import row_fingerprint
from featurestore.definitions.resolve import FeatureRequest, as_projection, resolve
from featurestore.errors import FeatureNotFoundError, MissingExtraError, NotAppliedError, StaleApplyError
from featurestore.online.contract import AsyncReader, OnlineStore
from featurestore.online.lookup import Lookup, OnlineResponse
from featurestore.online.view import OnlineView
from featurestore.registry import Plan, Registry, bind_code, load_repository
from featurestore.semantics.rows import Cut

if TYPE_CHECKING:
    import asyncio

    import pyarrow as pa

    from featurestore.maintenance.erasure import ErasureReport
    from featurestore.maintenance.upkeep import CompactReport, VacuumReport
    from featurestore.materialize.context import JobContext, JobReport
    from featurestore.offline.log import RowLog
    from featurestore.offline.plan import KnownAt
    from featurestore.offline.retrieval import RetrievalJob
    from featurestore.offline.retrieve import Engine
    from featurestore.online.entity_rows import EntityRows
    from featurestore.parity.verify import VerifyReport
    from featurestore.streaming.apply import Applier, Loop
    from featurestore.streaming.push import PushResult
    from featurestore.training.datasets import Datasets
    from featurestore.training.manifest import Manifest

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much is done, and how much there is (None: not known)."""
Time = datetime | int


class ApplyResult(msgspec.Struct, frozen=True):
    """What an apply did: the registry's revision after it, and the plan that was carried out."""

    revision: int
    plan: Plan


class StreamReport(msgspec.Struct, frozen=True):
    """What became of the events of a replay.

    Attributes
    ----------
    events
        Events read.
    applied
        Rows written, summed over views.
    skipped
        Events of which a transform made no row, or which were there already, summed over views.
    rejected
        Events that went to the dead letters, summed over views.
    """

    events: int = 0
    applied: int = 0
    skipped: int = 0
    rejected: int = 0
    seconds: float = 0.0


class FeatureStore:
    """A project's feature store.

    Parameters
    ----------
    repo_path
        Folder of ``feature_store.yaml`` and of the definitions.
    config
        The configuration itself, instead of a file; its `repo_path` holds the definitions.
    clock
        What tells the time; by default the machine's clock.
    """

    def __init__(
        self, repo_path: str | Path | None = None, *, config: Config | None = None, clock: Clock | None = None
    ) -> None:
        self.config = config or load_config(repo_path or ".")
        self.clock: Clock = clock or SystemClock()
        self._project: tuple[int, Project] | None = None
        self._planned: tuple[Plan, list[Any]] | None = None
        self._identity: str | None = None
        self._logs: dict[str, RowLog] = {}
        self._online_views: dict[bytes | str, OnlineView] = {}
        self._lookups: dict[Any, Lookup] = {}
        self._readers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncReader] = WeakKeyDictionary()
        self._loops: dict[str, Loop] = {}
        self._pushers: dict[str, Any] = {}

    # Parts

    @cached_property
    def registry(self) -> Registry:
        """The registry of applied definitions."""
        return Registry(self.config.registry_location, self.config.project)

    @cached_property
    def online_store(self) -> OnlineStore:
        """The online store that the configuration names."""
        if self.config.online_type == "memory":
            from featurestore.online.memory import MemoryStore

            return MemoryStore()
        if self.config.online_type == "redis":
            from featurestore.online.redis_settings import RedisSettings

            settings = RedisSettings.read(self.config.online_settings(), self.config.resolve)
            try:
                from featurestore.online.redis import RedisStore
            except ModuleNotFoundError as error:
                raise MissingExtraError.for_package("redis", "redis") from error
            return RedisStore(settings)
        from featurestore.online.lmdb import LmdbStore

        return LmdbStore(self.config.resolve(self.config.online_path))

    @property
    def revision(self) -> int:
        """The revision of the definitions in use."""
        return self._applied[0]

    @property
    def project(self) -> Project:
        """The applied definitions, with their code loaded from the repository."""
        return self._applied[1]

    @property
    def _applied(self) -> tuple[int, Project]:
        if self._project is None:
            self._load(self.registry.revision(), None)
        assert self._project is not None  # noqa: S101  (just loaded)
        return self._project

    def _load(self, revision: int, definitions: Iterable[Any] | None) -> None:
        if revision == 0:
            raise NotAppliedError(f"project {self.config.project!r} has no applied definitions; run featurestore apply")
        applied = self.registry.load(revision)
        views = applied.views_of_any_kind.values()
        if any(getattr(view, "code", None) is not None for view in views):
            loaded = list(definitions) if definitions is not None else load_repository(self.config.repo_path)
            applied = bind_code(applied, loaded)
        self._project = (revision, applied)
        self._identity = self.registry.identity()
        self._lookups.clear()
        self._online_views.clear()  # one state may be read in another way: by another ttl, say
        self._close_streams()

    def at_revision(self, revision: int) -> Self:
        """Return a store of this one's registry and online store, with the definitions as applied at a revision.

        Raises
        ------
        NotAppliedError
            Where there is no such revision.
        RegistryError
            Where the code that views need is not in the repository as it was applied.
        """
        other = type(self)(config=self.config, clock=self.clock)
        vars(other).update(registry=self.registry, online_store=self.online_store)
        other._load(revision, None)  # noqa: SLF001  (its own class)
        return other

    def log(self, view: FeatureView | str) -> RowLog:
        """Return the offline log that a view reads."""
        from featurestore.offline.log import RowLog

        view = self.project.feature_view(view) if isinstance(view, str) else view
        fingerprint = row_fingerprint(view)
        if fingerprint not in self._logs:
            self._logs[fingerprint] = RowLog(self.config.resolve(self.config.offline_path), view)
        return self._logs[fingerprint]

    def online_view(self, view: FeatureView | str) -> OnlineView:
        """Return the online state of a view."""
        view = self.project.feature_view(view) if isinstance(view, str) else view
        if self._identity is None:
            self._identity = self.registry.identity()
        project = f"{self.config.project}/{self._identity}" if self._identity else self.config.project
        online = OnlineView(self.online_store, project, view, self.config.max_clock_skew)
        return self._online_views.setdefault(online.fingerprint, online)

    def cuts(self, view: FeatureView) -> list[Cut]:
        """Return the cuts of a lambda view, in the order they came into force."""
        return self.registry.cuts(view.name, row_fingerprint(view)) if view.is_lambda else []

    # Definitions

    def plan(self, definitions: Iterable[Any] | None = None) -> Plan:
        """Compare definitions (by default the repository's) with the applied ones; nothing is written."""
        loaded = self._definitions(definitions)
        plan = self.registry.plan(Project(loaded))
        self._planned = plan, loaded
        return plan

    def apply(self, definitions: Iterable[Any] | Plan | None = None) -> ApplyResult:
        """Make definitions (by default the repository's) the applied ones.

        Online state that changed definitions need is filled from the offline log first, so that the change becomes
        readable all at once and what did not change never blanks.

        Raises
        ------
        StaleApplyError
            Where somebody else applied, or the repository changed, since the plan was made; nothing was changed.
        """
        if not isinstance(definitions, Plan):
            plan = self.plan(definitions)
        elif self._planned is not None and definitions is self._planned[0]:
            plan = definitions
        else:
            plan = self.plan()
            if plan.to_dict() != definitions.to_dict():
                raise StaleApplyError("the definitions changed since the plan; nothing was applied: plan again")
        assert self._planned is not None  # noqa: S101  (set by plan)
        loaded = self._planned[1]
        self._identity = self.registry.identify()
        for view in Project(loaded).feature_views.values():
            self._fill(view)
        revision = self.registry.apply(plan, self.clock.now(), user_name())
        if revision:
            self._load(revision, loaded)
        return ApplyResult(revision, plan)

    def _definitions(self, definitions: Iterable[Any] | None) -> list[Any]:
        return load_repository(self.config.repo_path) if definitions is None else list(definitions)

    def _fill(self, view: FeatureView) -> None:
        """Fill a view's online state from its log where it has never been, or was lost."""
        if not view.online:
            return
        online, log = self.online_view(view), self.log(view)
        if online.ready():
            return
        cuts = self.cuts(view)
        if log.exists():
            from featurestore.materialize.fill import fill

            fill(log, online, cuts[-1].at if cuts else None)
        elif view.batch_source is None:
            online.mark_ready()

    def _fill_all(self) -> None:
        for view in self.project.feature_views.values():
            self._fill(view)

    # Writing

    def materialize(
        self, start: Time, end: Time, views: Sequence[str] | None = None, progress: Progress | None = None
    ) -> list[JobReport]:
        """Read batch rows with ``start <= event time < end`` into the offline log and the online store.

        Running a range again, or an overlapping one, replaces the rows by what the source holds now.

        Parameters
        ----------
        start, end
            Aware or naive (UTC) datetimes, or microseconds since the epoch.
        views
            Names of views; by default all with a batch source.
        """
        from featurestore.materialize.job import materialize

        return materialize(self._jobs(), self._batch_views(views), to_micros(start), to_micros(end), progress)

    def materialize_incremental(
        self,
        end: Time,
        views: Sequence[str] | None = None,
        progress: Progress | None = None,
        *,
        overlap: timedelta | None = None,
    ) -> list[JobReport]:
        """Read batch rows that came since the last job, up to `end` (exclusive).

        Parameters
        ----------
        overlap
            How far before the end of the last job to read again where the source does not tell what is new, by a
            created timestamp or as a Delta table; by default one day. What comes later than that is not seen.
        """
        from featurestore.materialize.incremental import OVERLAP
        from featurestore.materialize.job import materialize_incremental

        back = OVERLAP if overlap is None else delta_micros(overlap)
        return materialize_incremental(self._jobs(), self._batch_views(views), to_micros(end), progress, back)

    def _batch_views(self, names: Sequence[str] | None) -> list[FeatureView]:
        names = [names] if isinstance(names, str) else names
        known = self.project.feature_views
        chosen = list(known.values()) if names is None else [self.project.feature_view(name) for name in names]
        for view in chosen:
            if names is not None and view.batch_source is None:
                raise FeatureNotFoundError(f"view {view.name!r} has no batch source; push or stream rows to it")
        return [view for view in chosen if view.batch_source is not None]

    def _jobs(self) -> JobContext:
        from featurestore.materialize.context import JobContext

        self._fill_all()
        return JobContext(
            registry=self.registry,
            project=self.project,
            offline_root=self.config.resolve(self.config.offline_path),
            repo_path=self.config.repo_path,
            clock=self.clock,
            wall=SystemClock().now,
            online=lambda view: self.online_view(view) if view.online else None,
            max_future_skew=self.config.max_future_skew,
            connection=self.config.connection,
        )

    def push(
        self,
        push_source_name: str,
        df: Any,
        to: str = "online_and_offline",
        *,
        idempotency_key: str | bytes | None = None,
    ) -> PushResult:
        """Write rows into the log and the online store of every view of a push source.

        Parameters
        ----------
        df
            A pandas, polars or Arrow table, or a list of dicts, with the source's columns.
        idempotency_key
            A retry with the same key writes nothing twice; without one a retry may.
        """
        from featurestore.streaming.push import Pusher

        if push_source_name not in self._pushers:
            source = self.project.sources.get(push_source_name)
            if not isinstance(source, PushSource):
                known = [name for name, s in self.project.sources.items() if isinstance(s, PushSource)]
                raise FeatureNotFoundError.with_suggestion("push source", push_source_name, known)
            self._fill_all()
            applier = self._applier(source)
            pusher = Pusher(applier, self.clock, self._state)
            applier.start(pusher.writers)
            self._pushers[push_source_name] = pusher
        result: PushResult = self._pushers[push_source_name].push(df, to=to, idempotency_key=idempotency_key)
        return result

    def stream(
        self, source: str | None = None, *, until: Time | None = None, progress: Progress | None = None
    ) -> StreamReport:
        """Replay file streams from where they stopped, up to the end of the file, several at the same time.

        Parameters
        ----------
        source
            Name of one `FileStreamSource`; by default all.
        until
            Events that arrive later stay for the next call.
        """
        sources = {name: s for name, s in self.project.sources.items() if isinstance(s, FileStreamSource)}
        if source is not None and source not in sources:
            raise FeatureNotFoundError.with_suggestion("file stream source", source, sources)
        limit = None if until is None else to_micros(until)
        loops = [self._loop(sources[name]) for name in (sources if source is None else [source])]
        report, stop = StreamReport(), threading.Event()
        with ThreadPoolExecutor(max(1, len(loops))) as threads:  # sources have nothing to do with each other
            try:
                for part in threads.map(lambda loop: _replay(loop, limit, progress, stop), loops):
                    report = _add(report, part)
            except BaseException:  # one failed, or Ctrl-C: the others end after the batch they are at
                stop.set()
                raise
        return report

    def _loop(self, source: FileStreamSource) -> Loop:
        from featurestore.streaming.apply import Loop
        from featurestore.streaming.file import FileReader

        if source.name not in self._loops:
            self._fill_all()
            reader = FileReader(source, self.config.resolve(source.path), self._state, final=True)
            loop = Loop(reader, self._applier(source))
            loop.start()
            self._loops[source.name] = loop
        return self._loops[source.name]

    def _applier(self, source: PushSource | FileStreamSource) -> Applier:
        from featurestore.offline.deadletters import DeadLetters
        from featurestore.streaming.apply import Applier

        views = [view for view in self.project.feature_views.values() if view.stream_source == source]
        root = self.config.resolve(self.config.offline_path)
        return Applier(
            source,
            views,
            log_factory=self.log,
            letters_factory=lambda log: DeadLetters(root, log.fingerprint),
            online={view.name: self.online_view(view) for view in views if view.online},
            max_future_skew=self.config.max_future_skew,
        )

    @property
    def _state(self) -> Path:
        return self.config.resolve(self.config.offline_path) / "state"

    # Reading

    def get_historical_features(
        self,
        entity_df: Any = None,
        features: FeatureRequest = (),
        full_feature_names: bool = False,
        *,
        known_at: KnownAt = "event",
        start_date: Time | None = None,
        end_date: Time | None = None,
        engine: Engine | None = None,
    ) -> RetrievalJob:
        """Join keys and times with the features as of each time.

        Parameters
        ----------
        entity_df
            A pandas or polars DataFrame, an Arrow table, rows as dicts, a DataFrame of Spark, a batch source, or SQL
            text for the engine; with the join keys, a timestamp column ``event_timestamp`` and the request fields of
            on-demand views. None: every key and time at which a view got a row from `start_date` on, before `end_date`.
        features
            ``["view:feature", ...]``, a feature service, or the name of one.
        known_at
            ``"event"``: every row that happened by then; ``"arrival"``: only what had also arrived by then, which is
            what was known in production.
        engine
            ``"duckdb"`` or ``"spark"``; by default Spark for a frame of Spark, else DuckDB. Values are the same.
        """
        from featurestore.offline.pins import Pins
        from featurestore.offline.retrieve import retrieval

        revision, project = self._applied
        request = resolve(project, features, full_feature_names=full_feature_names)
        pins = Pins(request.views, self.log, self.cuts)
        asked = project.services.get(features) if isinstance(features, str) else features
        service = asked.name if isinstance(asked, FeatureService) and asked in project.services.values() else ""

        def save(job: RetrievalJob, name: str) -> Manifest:
            from featurestore.training.datasets import Origin

            return self.datasets.save(name, job, Origin(revision, service, full_feature_names, pins))

        return retrieval(
            entity_df,
            request,
            pins,
            known_at=known_at,
            engine=engine,
            between=(start_date, end_date),
            read_source=self._read_source,
            saver=save,
        )

    def _read_source(self, source: BatchSource) -> pa.Table:
        from featurestore.materialize.readers import SourceReader

        with SourceReader(source, self.config.repo_path, self.config.connection(source.connection)) as reader:
            return reader.table()

    @cached_property
    def datasets(self) -> Datasets:
        """The saved training sets: `ls`, `show`, `load` and `reproduce` them. A retrieval's `save` makes one."""
        from featurestore.training.datasets import Datasets

        return Datasets(
            self.config.resolve(self.config.offline_path) / "datasets",
            project=self.config.project,
            release=version("featurestore"),
            clock=self.clock,
            definitions_at=self._definitions_at,
            log_of=self.log,
        )

    def _definitions_at(self, revision: int, on_demand: set[str]) -> Project:
        """Return the definitions as applied at a revision, with the code of the on-demand views named."""
        applied = self.registry.load(revision)
        return bind_code(applied, load_repository(self.config.repo_path), on_demand) if on_demand else applied

    def get_online_features(
        self,
        features: FeatureRequest,
        entity_rows: EntityRows,
        full_feature_names: bool = False,
        *,
        now: Time | None = None,
    ) -> OnlineResponse:
        """Look features up as of now.

        Parameters
        ----------
        entity_rows
            One dict for each row, or one dict of columns; with the join keys and request fields.
        now
            The reader's clock; by default the store's.
        """
        lookup = self._lookup(features, full_feature_names)
        return lookup.answer(entity_rows, self.clock.now() if now is None else to_micros(now))

    async def get_online_features_async(
        self,
        features: FeatureRequest,
        entity_rows: EntityRows,
        full_feature_names: bool = False,
        *,
        now: Time | None = None,
    ) -> OnlineResponse:
        """Look features up as `get_online_features` does, without blocking the event loop; `aclose` ends it there.

        Each event loop has connections of its own.
        """
        lookup = self._lookup(features, full_feature_names)
        when = self.clock.now() if now is None else to_micros(now)
        return await lookup.answer_async(entity_rows, when, self._reader())

    def _lookup(self, features: FeatureRequest, full_feature_names: bool) -> Lookup:
        key = _request_key(features, full_feature_names)
        lookup = self._lookups.get(key)
        if lookup is None:
            request = resolve(self.project, features, full_feature_names=full_feature_names)
            views = {view.name: self.online_view(view) for view in request.views}
            lookup = self._lookups[key] = Lookup(request, self.online_store, views)
        return lookup

    def _reader(self) -> AsyncReader:
        import asyncio

        loop = asyncio.get_running_loop()
        reader = self._readers.get(loop)
        if reader is None:
            reader = self._readers[loop] = self.online_store.reader()
        return reader

    async def aclose(self) -> None:
        """Close what `get_online_features_async` opened in this event loop, then all that `close` does."""
        import asyncio

        reader = self._readers.pop(asyncio.get_running_loop(), None)
        if reader is not None:
            await reader.close()
        self.close()

    def verify(self, views: Sequence[str] | None = None, sample: int = 1000) -> VerifyReport:
        """Recompute offline what the online store serves for a sample of keys, and compare bit by bit."""
        from featurestore.parity.verify import Verifier

        names = [views] if isinstance(views, str) else views
        known = self.project.views_of_any_kind
        chosen = list(known.values()) if names is None else [self.project.view(name) for name in names]
        verifier = Verifier(self.project, self.online_store, self.log, self.online_view, self.clock.now())
        return verifier.verify(chosen, sample)

    def dead_letters(self, view: str) -> pa.Table:
        """Return the records that the log of a view did not take, with position, payload and reason."""
        from featurestore.offline.deadletters import DeadLetters

        return DeadLetters(self.config.resolve(self.config.offline_path), self.log(view).fingerprint).read()

    # Maintenance

    def compact(self, views: Sequence[str] | None = None) -> list[CompactReport]:
        """Lay the logs of some views (by default all) out by event time; no row or earlier version changes."""
        from featurestore.maintenance.upkeep import compact_logs

        known = self.project.feature_views
        names = [views] if isinstance(views, str) else views
        chosen = known.values() if names is None else [self.project.feature_view(name) for name in names]
        logs = {log.fingerprint: log for log in map(self.log, chosen)}
        return compact_logs(
            [(log, tuple(sorted(n for n in known if row_fingerprint(known[n]) == f))) for f, log in logs.items()]
        )

    def vacuum(self, retention: timedelta | None = None, *, dry_run: bool = False) -> list[VacuumReport]:
        """Remove files of logs that only old versions need.

        Parameters
        ----------
        retention
            Versions that were current within it stay (by default 7 days; rounded up to hours), and whatever their age
            those that saved training sets or open jobs need.
        dry_run
            Only say what would go.
        """
        from featurestore.maintenance.upkeep import RETENTION, vacuum_all

        root = self.config.resolve(self.config.offline_path)
        kept = RETENTION if retention is None else retention
        wall = SystemClock().now()
        return vacuum_all(root, self.registry, self.datasets, wall, retention=kept, dry_run=dry_run)

    def delete_entity(
        self, key: Mapping[str, Any], *, view: str | None = None, entity: str | None = None
    ) -> ErasureReport:
        """Erase a key: rows, history, dead letters, online state, rows of saved training sets. May be repeated.

        Other keys' values do not change a bit. The registry records what was erased (`Registry.erasures`), with a hash
        of the key. A batch source that still holds the key brings it back with the next job.

        Parameters
        ----------
        key
            Join key to value.
        view
            Erase from the log of this view, and so from every view that shares it; the whole key is needed.
        entity
            Erase from every log whose join keys include this entity's.
        """
        from featurestore.maintenance.erasure import Eraser, chosen_views

        eraser = Eraser(
            root=self.config.resolve(self.config.offline_path),
            registry=self.registry,
            datasets=self.datasets,
            online_of=self.online_view,
            clock=self.clock,
            wall=SystemClock().now,
        )
        return eraser.erase(key, chosen_views(self.registry, self.project, key, view=view, entity=entity))

    def close(self) -> None:
        """Release files and connections."""
        self._close_streams()
        if "online_store" in self.__dict__:
            self.online_store.close()
            del self.__dict__["online_store"]
        self.registry.close()

    def _close_streams(self) -> None:
        for loop in self._loops.values():
            with closing(loop.reader):
                pass
        self._loops.clear()
        self._pushers.clear()


def user_name() -> str:
    """Return the name of this process's user; empty where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        return ""


def _request_key(features: FeatureRequest, full_feature_names: bool) -> Any:
    if isinstance(features, str):
        return features, full_feature_names
    if isinstance(features, FeatureService):
        return features.name, features.projections, full_feature_names
    return tuple([each if isinstance(each, str) else as_projection(each) for each in features]), full_feature_names


def _totals(applier: Applier) -> tuple[int, int, int]:
    counters = applier.counters.values()
    return (
        sum(counter.rows for counter in counters),
        sum(counter.dropped + counter.duplicates for counter in counters),
        sum(sum(counter.rejected.values()) for counter in counters),
    )


def _replay(loop: Loop, until: int | None, progress: Progress | None, stop: threading.Event) -> StreamReport:
    started = time.perf_counter()
    before = _totals(loop.applier)
    events = 0
    while not stop.is_set() and (count := loop.step(until)):
        events += count
        if progress is not None:
            progress(f"streaming {loop.applier.source.name}", events, None)
    after = _totals(loop.applier)
    applied, skipped, rejected = (b - a for a, b in zip(before, after, strict=True))
    return StreamReport(events, applied, skipped, rejected, time.perf_counter() - started)


def _add(left: StreamReport, right: StreamReport) -> StreamReport:
    return StreamReport(
        left.events + right.events,
        left.applied + right.applied,
        left.skipped + right.skipped,
        left.rejected + right.rejected,
        max(left.seconds, right.seconds),
    )
