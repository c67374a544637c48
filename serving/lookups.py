"""``POST /get-online-features``: from the bytes of a request to the bytes of its answer, with little between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from featurestore.clock import Clock
from featurestore.errors import RowError, suggest
from featurestore.online.contract import AsyncReader
from featurestore.online.lookup import OnlineResponse
from featurestore.semantics.rows import Status
from featurestore.serving.generation import Generation, Prepared, Wanted
from featurestore.serving.metrics import Cell, Metrics
from featurestore.serving.problems import Problem

MOST_FEATURES = 5_000


class LookupRequest(msgspec.Struct):
    """What is asked for: features or a feature service, for some entities.

    Attributes
    ----------
    entities
        By join key or request field the values of all rows: lists of one length.
    features
        ``view:feature`` references.
    feature_service
        The name of a feature service, instead of `features`.
    full_feature_names
        Whether to call columns ``view__feature`` instead of ``feature``.
    include_receipts
        Whether to say what stands behind each value.
    """

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    include_receipts: bool = False


class Lookups:
    """Answers lookups.

    Parameters
    ----------
    generation
        What is served; set anew at a change of definitions.
    reader
        What reads the online store.
    limit_entities
        The greatest number of rows of a request.
    """

    def __init__(
        self, generation: Generation, reader: AsyncReader, clock: Clock, metrics: Metrics, *, limit_entities: int
    ) -> None:
        self.generation = generation
        self._reader = reader
        self._clock = clock
        self._metrics = metrics
        self._limit = limit_entities
        self._decode = msgspec.json.Decoder(LookupRequest).decode
        self._cells: dict[str, list[Cell]] = {}

    async def answer(self, body: bytes) -> tuple[bytes, str]:
        """Return the answer to a request, as JSON, and the label of its service.

        Raises
        ------
        Problem
            Where the request is not one.
        FeatureStoreError
            Where it cannot be answered.
        """
        request = self._read(body)
        prepared = self.generation.prepare(
            Wanted(tuple(request.features or ()), request.feature_service or "", request.full_feature_names)
        )
        rows = self._rows(request.entities, prepared)
        response = await prepared.lookup.answer_async(rows, self._clock.now(), self._reader)
        self._count(prepared, response)
        return response.to_json(receipts=request.include_receipts), prepared.service

    def _read(self, body: bytes) -> LookupRequest:
        try:
            request = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"the body is not a lookup: {error}") from error
        if bool(request.features) == bool(request.feature_service):
            raise Problem(400, "the body names its features by either 'features', a list, or 'feature_service'")
        if request.features and len(request.features) > MOST_FEATURES:
            raise Problem(400, f"{len(request.features):,} features are asked for, and {MOST_FEATURES:,} is the most")
        return request

    def _rows(
        self, entities: dict[str, list[Any]], prepared: Prepared
    ) -> Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]:
        """Return the rows asked for; of features that need no keys there is one where none are given."""
        rows = len(next(iter(entities.values()))) if entities else 0
        if rows > self._limit:
            raise Problem(
                413, f"{rows:,} entity rows are asked for, and {self._limit:,} is the most (--limit-entities)"
            )
        if not rows:
            needed = [*prepared.lookup.request.join_keys, *prepared.lookup.request.request_fields]
            for name in needed:
                if name not in entities:
                    raise RowError(f"entities lacks {name!r}{suggest(name, entities) if entities else ''}")
            if not needed:
                return [{}]
        return entities

    def _count(self, prepared: Prepared, response: OnlineResponse) -> None:
        self._metrics.cell("featurestore_entity_rows", prepared.service)[0] += len(response.evaluated_at)
        for view, answered in zip(prepared.views, response.views, strict=True):
            columns = answered.columns.statuses
            if not columns:
                continue
            cells = self._cells.get(view) or self._of_view(view)
            first = columns[0]
            if columns.count(first) == len(columns):  # most often so, and often one list for all of them
                _add(cells, first, len(columns))
            else:
                for statuses in columns:
                    _add(cells, statuses, 1)
        for name, view in prepared.derived:
            _add(self._cells.get(view) or self._of_view(view), response.columns[name].statuses, 1)

    def _of_view(self, view: str) -> list[Cell]:
        names = {status.value: status.name for status in Status}
        cells = [
            self._metrics.cell("featurestore_values", view, names.get(value, "UNKNOWN"))
            for value in range(max(names) + 1)
        ]
        self._cells[view] = cells
        return cells


def _add(cells: list[Cell], statuses: Sequence[Status], times: int) -> None:
    if len(statuses) == 1:
        cells[statuses[0]][0] += times
        return
    for status in set(statuses):
        cells[status][0] += statuses.count(status) * times
