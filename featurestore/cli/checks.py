"""The checks of ``doctor``: one finding for each thing that a project needs, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from featurestore.cli.settings import Settings
from featurestore.cli.source_checks import check_source, sources_of
from featurestore.config import load_config
from featurestore.definitions import Definition, FeatureView, Project, PushSource
from featurestore.errors import FeatureStoreError, OnlineStoreError

if TYPE_CHECKING:
    from featurestore.store import FeatureStore


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, whether it is well, what was seen and what to do."""

    name: str
    ok: bool
    detail: str = ""
    fix: str = ""


def run_checks(settings: Settings) -> Iterator[Check]:
    """Yield the findings, up to the first thing without which nothing further can be looked at; writes nothing."""
    found = _try("configuration", "correct feature_store.yaml as it says", lambda: _configuration(settings))
    yield found
    if not found.ok:
        return
    store = settings.open()
    definitions: list[Definition] = []
    repository = _try("definitions", "correct the file that it names", lambda: _definitions(store, definitions))
    registry = _try("registry", "check the path or URL under registry: in feature_store.yaml", lambda: _registry(store))
    yield from (registry, repository)
    if repository.ok:
        wanted = Project(definitions)
        if registry.ok:
            yield _applied(store, wanted)
        for source in sources_of(wanted):
            if not isinstance(source, PushSource):
                finding = check_source(store.config, wanted, source)
                fix = "" if finding.ok else "correct the source's definition or connection, or what is there"
                yield Check(f"source {source.name}", finding.ok, finding.detail, fix)
    if registry.ok:
        yield from _stores(store)


def _try(name: str, fix: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except FeatureStoreError as error:
        return Check(name, False, str(error), fix)


def _configuration(settings: Settings) -> str:
    config = load_config(settings.repo)
    return f"project {config.project!r} in {config.repo_path}"


def _registry(store: FeatureStore) -> str:
    return f"revision {store.registry.revision()} in {store.config.registry}"


def _definitions(store: FeatureStore, into: list[Definition]) -> str:
    from featurestore.registry import load_repository

    into += load_repository(store.config.repo_path)
    views = Project(into).views_of_any_kind
    return f"{len(views)} view{'' if len(views) == 1 else 's'}: {', '.join(views)}"


def _applied(store: FeatureStore, wanted: Project) -> Check:
    fix = "see featurestore plan, then run featurestore apply"
    try:
        plan = store.registry.plan(wanted)
    except FeatureStoreError as error:
        return Check("applied", False, str(error), "correct the definition that it names")
    if plan.is_empty:
        return Check("applied", True, f"all definitions, as revision {plan.base_revision}")
    counts = ", ".join(f"{plan.count(action)} {action}" for action in ("added", "changed", "removed"))
    return Check("applied", False, f"not what the registry holds: {counts}", fix)


def _stores(store: FeatureStore) -> Iterator[Check]:
    """Yield findings about what is stored for the applied views."""
    views = store.registry.load().feature_views.values()
    fix = "load rows: featurestore materialize START END, or stream or push them"
    for view in views:
        yield _try(f"offline log of {view.name}", "restore the folder from a backup", partial(_log, store, view))
    served = [view for view in views if view.online]
    if not served:
        return
    online = _try("online store", "", lambda: _online(store))
    yield online
    if online.ok:
        for view in served:
            ready = store.online_view(view).ready()
            yield Check(
                f"online state of {view.name}", ready, "ready" if ready else "not filled yet", "" if ready else fix
            )


def _log(store: FeatureStore, view: FeatureView) -> str:
    log = store.log(view)
    return f"version {log.version()}" if log.exists() else "nothing written yet"


def _online(store: FeatureStore) -> str:
    path = store.config.resolve(store.config.online_path)
    if store.config.online_type == "memory":
        return "in memory, empty at every start"
    if not path.exists():
        raise OnlineStoreError(f"{path} is not there yet; featurestore materialize makes it")
    with store.online_store.snapshot():
        return str(path)
