"""A project's definitions as one checked whole, their JSON form and their fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from featurestore.definitions.code import UserCode
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.sources import FileSource, FileStreamSource, PushSource, RequestSource, Source
from featurestore.definitions.warehouse import BigQuerySource, HiveSource, SqlSource
from featurestore.errors import DefinitionError, FeatureNotFoundError, suggest

Definition = (
    Entity
    | FileSource
    | SqlSource
    | HiveSource
    | BigQuerySource
    | PushSource
    | FileStreamSource
    | RequestSource
    | FeatureView
    | OnDemandFeatureView
    | FeatureService
)
KINDS: dict[type, str] = {
    Entity: "entity",
    FileSource: "source",
    SqlSource: "source",
    HiveSource: "source",
    BigQuerySource: "source",
    PushSource: "source",
    FileStreamSource: "source",
    RequestSource: "source",
    FeatureView: "feature_view",
    OnDemandFeatureView: "feature_view",
    FeatureService: "feature_service",
}
_PROSE = ("description", "tags", "owner")


class Project:
    """All definitions of a project, by kind and name; checks that they fit together.

    Entities and sources that views mention are taken along, so a user need not list them.

    Attributes
    ----------
    objects
        ``(kind, name)`` to definition, in the order first seen. Kinds: `entity`, `source`, `feature_view` (also
        on-demand ones) and `feature_service`.
    """

    def __init__(self, definitions: Iterable[Definition] = ()) -> None:
        self.objects: dict[tuple[str, str], Definition] = {}
        for definition in definitions:
            self._add(definition)
        self._check_references()

    def _add(self, definition: Any) -> None:
        kind = KINDS.get(type(definition))
        if kind is None:
            raise DefinitionError(f"{definition!r:.80} is not a definition such as an Entity or a FeatureView")
        if isinstance(definition, FeatureView):
            for entity in definition.entities:
                self._add(entity)
            self._add(definition.source)
        elif isinstance(definition, OnDemandFeatureView):
            for source in definition.sources:
                if isinstance(source, RequestSource):
                    self._add(source)
        elif isinstance(definition, (PushSource, FileStreamSource)) and definition.batch_source is not None:
            self._add(definition.batch_source)
        known = self.objects.setdefault((kind, definition.name), definition)
        if encode(known) != encode(definition):
            raise DefinitionError(
                f"two different objects of kind {kind} are named {definition.name!r}; give each its own name"
            )

    def _check_references(self) -> None:
        for view in self.on_demand_views.values():
            for projection in view.view_inputs:
                self._check_projection(f"OnDemandFeatureView {view.name!r}", projection.view, projection.features)
                if isinstance(self.views_of_any_kind[projection.view], OnDemandFeatureView):
                    raise DefinitionError(
                        f"OnDemandFeatureView {view.name!r} reads the on-demand view {projection.view!r}; "
                        "read the views behind it instead"
                    )
        for service in self.services.values():
            for projection in service.projections:
                self._check_projection(f"FeatureService {service.name!r}", projection.view, projection.features)

    def _check_projection(self, owner: str, view_name: str, features: tuple[str, ...]) -> None:
        try:
            known = [field.name for field in self.view(view_name).features]
        except FeatureNotFoundError as error:
            raise DefinitionError(f"{owner}: {error}") from error
        for feature in features:
            if feature not in known:
                raise DefinitionError(
                    f"{owner}: view {view_name!r} has no feature {feature!r}{suggest(feature, known)}"
                )

    def of_kind(self, kind: str) -> dict[str, Any]:
        """Return the objects of one kind by name."""
        return {name: definition for (k, name), definition in self.objects.items() if k == kind}

    @property
    def views_of_any_kind(self) -> dict[str, FeatureView | OnDemandFeatureView]:
        """Stored and on-demand views by name."""
        return self.of_kind("feature_view")

    @property
    def feature_views(self) -> dict[str, FeatureView]:
        """The views that are stored, by name."""
        return {name: view for name, view in self.views_of_any_kind.items() if isinstance(view, FeatureView)}

    @property
    def on_demand_views(self) -> dict[str, OnDemandFeatureView]:
        """The on-demand views by name."""
        return {name: view for name, view in self.views_of_any_kind.items() if isinstance(view, OnDemandFeatureView)}

    @property
    def services(self) -> dict[str, FeatureService]:
        """The feature services by name."""
        return self.of_kind("feature_service")

    @property
    def sources(self) -> dict[str, Source | RequestSource]:
        """The sources by name."""
        return self.of_kind("source")

    def view(self, name: str) -> FeatureView | OnDemandFeatureView:
        """Return a view by name, stored or on-demand."""
        views = self.views_of_any_kind
        if name not in views:
            raise FeatureNotFoundError.with_suggestion("feature view", name, views)
        return views[name]

    def feature_view(self, name: str) -> FeatureView:
        """Return a stored view by name."""
        view = self.view(name)
        if isinstance(view, OnDemandFeatureView):
            raise FeatureNotFoundError(f"{name!r} is an on-demand view: it is computed at request time, not stored")
        return view

    def service(self, name: str) -> FeatureService:
        """Return a feature service by name."""
        if name not in self.services:
            raise FeatureNotFoundError.with_suggestion("feature service", name, self.services)
        return self.services[name]


def _hook(value: object) -> object:
    if isinstance(value, UserCode):
        return {"path": value.path, "text": value.text}
    raise TypeError(f"cannot encode {type(value).__name__}")  # pragma: no cover


def encode(definition: Any) -> bytes:
    """Return a definition as canonical JSON: the same bytes for equal definitions, on every machine."""
    return msgspec.json.encode(definition, enc_hook=_hook, order="deterministic")


def decode(text: bytes | str) -> Definition:
    """Return the definition that `encode` wrote; user code comes without its callable."""
    return _DECODER.decode(text)


_DECODER: msgspec.json.Decoder[Definition] = msgspec.json.Decoder(Definition)


def fingerprint(definition: Any) -> str:
    """Return the content fingerprint of a definition, 32 hex digits; prose (description, tags, owner) counts."""
    return digest(encode(definition))


def row_fingerprint(view: FeatureView) -> str:
    """Return the fingerprint of a view's rows: source, transform and schema. Views that share it share a log."""
    sources = [_bare(source) for source in (view.batch_source, view.stream_source) if source is not None]
    code = view.code.digest if view.code else ""
    keys = sorted((key.name, str(key.dtype)) for key in view.join_keys)
    columns = [(field.name, str(field.dtype)) for field in view.columns]
    return digest(msgspec.json.encode([sources, code, keys, columns], order="deterministic"))


def feature_fingerprint(definition: Definition) -> str:
    """Return the fingerprint of what a definition means, for a view what its values mean: everything but prose."""
    return digest(msgspec.json.encode(_bare(definition), order="deterministic"))


def _bare(definition: Any) -> Any:
    """Return the definition as plain JSON data without descriptions, tags and owners, at any depth."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            # The keys of a field mapping are columns, and a column may be named "owner".
            return {k: v if k == "field_mapping" else strip(v) for k, v in value.items() if k not in _PROSE}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(msgspec.json.decode(encode(definition)))


def digest(data: bytes) -> str:
    """Return the fingerprint of a definition's JSON form, 32 hex digits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]
