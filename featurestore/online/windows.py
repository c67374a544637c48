"""Reading window views: which keys are named, what is taken in, how far ``t`` must move, and values.

A reader's ``t`` is its clock or, if later, one microsecond past the newest row that is not pending of the tile that
holds the clock. So the head tile always counts whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from weakref import WeakKeyDictionary

from featurestore.clock import format_duration, from_micros
from featurestore.errors import ClockError, OnlineStoreError
from featurestore.online.framing import Section, build, cut_of, is_batch_of_cut, parse
from featurestore.online.layout import WindowLayout
from featurestore.online.plans import ReadPlan, Span, key_end
from featurestore.online.reading import Times, ViewColumns
from featurestore.online.sections import header_of
from featurestore.online.states import StoredSection, WindowQuery
from featurestore.online.tiles import newest_in
from featurestore.online.view import OnlineView
from featurestore.semantics.finalise import finalise_column
from featurestore.semantics.rows import BATCH_WRITER

_LONGEST_KEY = 400
_queries: WeakKeyDictionary[WindowLayout, dict[tuple[int, ...], WindowQuery]] = WeakKeyDictionary()


class _Key:
    """What was read of one entity key.

    Attributes
    ----------
    header, chunk
        The store's key of its header, and the part that the keys of its chunks begin with.
    spans
        The chunks that were read with the header; None before.
    sections
        The sections that count, by the name they are stored under.
    sequences
        By writer, the last sequence that was visible.
    """

    __slots__ = ("chunk", "header", "sections", "sequences", "spans")

    def __init__(self, view: OnlineView, entity: bytes) -> None:
        self.header = view.header(entity)
        self.chunk = view.chunk(entity, 0, 0)[: -len(key_end(0, 0))]
        self.spans: Collection[Span] | None = None
        self.sections: dict[str, StoredSection] = {}
        self.sequences: dict[str, int] = {}

    def has(self, level: int, number: int) -> bool:
        """Whether a section lists a chunk."""
        return any(number in section.listed[level] for section in self.sections.values())


class WindowReading:
    """What is stored of some entity keys of a window view: a `Reading`, normally of one step.

    Parameters
    ----------
    entities
        The entity keys, each once; None for a key with a null.
    features
        The places, among the view's features, of those asked for.
    """

    def __init__(self, view: OnlineView, entities: Sequence[bytes | None], features: Sequence[int]) -> None:
        assert view.layout is not None  # noqa: S101  (a window view has a layout)
        self._view = view
        self._layout: WindowLayout = view.layout
        self._entities = entities
        self._query = _query(view.layout, tuple(features))
        self._keys = [None if entity is None else _Key(view, entity) for entity in entities]
        self._wanted: list[tuple[int, Collection[Span]]] = []
        self._cut = self._query.plans.cut
        self._planned: ReadPlan | None = None
        self._complete: ReadPlan | None = None
        self._latest: int | None = None
        self._heads: dict[str, bytes] = {}

    def keys(self, times: Times) -> list[bytes]:
        """Return the store's keys that were not loaded yet and are needed to evaluate each (place, time)."""
        plans = {t: self._query.plans.at(t, self._cut) for t in {t for _, t in times}}
        self._planned = next(iter(plans.values()), None)
        if any(plan is not self._planned for plan in plans.values()) or (self._planned and self._planned.unnamed):
            self._planned = None
        elif self._planned is not None and self._planned is self._complete:
            return []
        self._wanted, names = [], []
        for place, spans in self._needs(times, plans).items():
            key = self._keys[place]
            if key is None:
                continue
            if key.spans is None or any(span not in key.spans and key.has(*span) for span in spans):
                self._wanted.append((place, spans))
                names.append(key.header)
                ends = self._planned.ends if self._planned else [key_end(*span) for span in spans]
                names += [key.chunk + end for end in ends]
        return names

    def _needs(self, times: Times, plans: dict[int, ReadPlan]) -> dict[int, Collection[Span]]:
        """Return the chunks that each place needs."""
        if self._planned is not None:
            return dict.fromkeys((place for place, _ in times), self._planned.spans)
        needs: dict[int, set[Span]] = {}
        for place, t in times:
            spans = needs.setdefault(place, set())
            spans.update(plans[t].spans)
            key = self._keys[place]
            for section in key.sections.values() if key is not None else ():
                spans.update((level, number) for level in plans[t].unnamed for number in section.listed[level])
        return {place: sorted(spans) for place, spans in needs.items()}

    def load(self, keys: Sequence[bytes], values: Sequence[bytes | None], cut: int | None) -> None:  # noqa: ARG002
        """Take in what was read: of each key that `keys` named the header, and all chunks that are needed with it."""
        at = 0
        for place, spans in self._wanted:
            key, entity = self._keys[place], self._entities[place]
            assert key is not None and entity is not None  # noqa: PT018, S101  (only such keys are wanted)
            key.spans = spans
            self._open(key, entity, values[at], cut)
            end = at + 1 + len(spans)
            if key.sections:
                self._take(key, spans, values[at + 1 : end])
            at = end
        self._complete = self._planned if cut == self._cut else None
        self._cut = self._query.plans.cut = cut
        self._wanted = []

    def _open(self, key: _Key, entity: bytes, value: bytes | None, cut: int | None) -> None:
        """Take in a header: of a lambda view's batch sections the one for the cut in force counts."""
        key.sections, key.sequences = {}, {}
        sections = [] if value is None else parse(value)
        is_lambda = self._view.is_lambda
        if is_lambda:
            sections = _in_force(sections, cut)
        for name, sequence, payload in sections:
            header = header_of(payload)
            if len(entity) > _LONGEST_KEY and header.entity != entity:
                raise OnlineStoreError(f"two keys of view {self._view.view.name!r} share a shortened key")
            writer = BATCH_WRITER if is_lambda and is_batch_of_cut(name) else name
            fold = self._view.folds(writer)
            key.sections[name] = StoredSection(
                self._layout, writer, header, cut if is_lambda and not fold else None, fold=fold
            )
            key.sequences[writer] = sequence
            arrival = header.arrival
            if arrival is not None and (self._latest is None or arrival > self._latest):
                self._latest = arrival

    def _take(self, key: _Key, spans: Collection[Span], values: Sequence[bytes | None]) -> None:
        """Take in chunks; those of one writer, as most are, without taking them apart."""
        codecs = self._layout.codecs
        ((name, section), *others) = key.sections.items()
        head = self._heads.get(name)
        if head is None:
            head = self._heads[name] = build([Section(name, 0, b"")])[:-12]
        size = len(head) + 12
        for (level, number), value in zip(spans, values, strict=True):
            if value is None:
                continue
            if (
                not others
                and value.startswith(head)
                and int.from_bytes(value[size - 4 : size], "big") == len(value) - size
            ):
                section.take(codecs[level], level, number, value, size)
                continue
            for stored in parse(value):
                found = key.sections.get(stored.writer)
                if found is not None:
                    found.take(codecs[level], level, number, stored.payload, 0)

    def settled(self, t: int) -> bool:
        """Return whether no row that is not pending happened at `t` or later."""
        return self._latest is None or self._latest < t

    def move(self, place: int, t: int, *, moved: bool) -> int:
        """Return the earliest time from `t` on at which every row of the tile that holds it counts, if not pending.

        Where `t` has been moved onto the start of a tile, that tile holds no clock and does not count at all.
        """
        hop = self._layout.hops[0]
        start = t // hop * hop
        key = self._keys[place]
        if key is None or (moved and start == t):
            return t
        number = t // self._layout.spans[0]
        for section in key.sections.values():
            if section.cut is not None and start < section.cut:
                continue
            for part in section.parts[0]:
                if part.number == number:
                    newest = newest_in(part.records, part.form.size, start, hop)
                    if newest is not None and newest >= t:
                        t = newest + 1
        return t

    def evaluate(self, times: Times) -> ViewColumns:
        """Return the values of each (place, time), with all that `keys` names loaded.

        Raises
        ------
        ClockError
            Where a time is so far behind the rows that what it needs is no longer kept.
        """
        distinct = {read: order for order, read in enumerate(dict.fromkeys(times))}
        keys = [self._keys[place] for place, _ in times]
        reads = []
        for place, t in distinct:
            key = self._keys[place]
            sections = [] if key is None else list(key.sections.values())
            self._require(sections, t)
            reads.append((sections, t))
        states = self._query.states(reads)
        orders = [distinct[read] for read in times] if len(distinct) < len(times) else None
        values, statuses = [], []
        for out, window in zip(self._query.outputs, self._query.places, strict=True):
            column, judged = finalise_column(out.aggregation, out.dtype, states[out.accumulator, window])
            if orders is not None:
                column, judged = [column[order] for order in orders], [judged[order] for order in orders]
            values.append(column)
            statuses.append(judged)
        return ViewColumns(values, statuses, None, [{} if key is None else key.sequences for key in keys])

    def _require(self, sections: Sequence[StoredSection], t: int) -> None:
        """Raise where a time is too far behind a section's rows."""
        skew = self._layout.skew
        for section in sections:
            arrival = section.header.arrival
            if arrival is not None and t < arrival - skew:
                raise ClockError(
                    f"view {self._view.view.name!r}: the reader's clock {from_micros(t)} is more than "
                    f"max_clock_skew ({format_duration(skew)}) behind rows that arrived at {from_micros(arrival)}; the "
                    "online store answers for the present, use get_historical_features for the past"
                )


def _query(layout: WindowLayout, features: tuple[int, ...]) -> WindowQuery:
    """Return what is known of a query, which is worked out once."""
    known = _queries.setdefault(layout, {})
    query = known.get(features)
    if query is None:
        query = known[features] = WindowQuery(layout, features)
    return query


def _in_force(sections: Sequence[Section], cut: int | None) -> list[Section]:
    """Return a lambda view's sections that count: of batch that of the latest cut up to the one in force."""
    cuts = [cut_of(section.writer) for section in sections if is_batch_of_cut(section.writer)]
    used = max((c for c in cuts if cut is not None and c <= cut), default=None)
    return [s for s in sections if not is_batch_of_cut(s.writer) or cut_of(s.writer) == used]
