"""From stored sections to the exact state of every window, for many keys at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featurestore.online.layout import Output, WindowLayout
from featurestore.online.plans import ReadPlans
from featurestore.online.sections import Header
from featurestore.online.tiles import DIGIT_BITS, Number, TileCodec, decode_packed
from featurestore.online.totals import Group, Level, Part, Totals, packed_ranges
from featurestore.semantics.accumulators import Count, MomentState, Order, Sum, SumState, clean
from featurestore.semantics.windows import Window, floor_to

_EVER = -(2**62)
_Wanted = tuple[int, int]
"""An accumulator and a window, by place."""


class StoredSection:
    """One writer's section of one key, as it was read.

    Attributes
    ----------
    cut
        Time before which no row counts; None: all do.
    fold
        Whether old rows are in bases.
    listed
        By level, the numbers of the chunks that belong to the section.
    parts
        By level, what was read of them, in the order of time.
    """

    __slots__ = ("cut", "fold", "header", "listed", "parts", "writer")

    def __init__(self, layout: WindowLayout, writer: str, header: Header, cut: int | None, *, fold: bool) -> None:
        self.writer = writer
        self.header = header
        self.cut = cut
        self.fold = fold
        self.listed = header.listed()
        self.parts: list[list[Part]] = [[] for _ in layout.hops]

    def take(self, codec: TileCodec, level: int, number: int, value: bytes, begin: int) -> None:
        """Take in the section's part of a chunk, which begins at `begin` of a value and ends with it."""
        if number not in self.listed[level]:
            return
        records = begin + codec.begin
        form = codec.form(value[begin + 4 : records])
        if codec.packed:
            end = records + int.from_bytes(value[begin : begin + 4], "little") * form.size
            self.parts[level].append(Part(number, self.writer, form, value[records:end], value[end:]))
        else:
            self.parts[level].append(Part(number, self.writer, form, value[records:], b""))


class WindowQuery:
    """Some outputs of a window view, and what does not change from one evaluation to the next.

    Attributes
    ----------
    outputs
        What was asked for.
    windows
        The distinct windows among them; `places` says which one is each output's.
    levels
        What is read of the tiles of each level.
    """

    def __init__(self, layout: WindowLayout, features: Sequence[int]) -> None:
        self.layout = layout
        self.outputs: list[Output] = [layout.outputs[feature] for feature in features]
        self.windows: list[Window] = list(dict.fromkeys(out.window for out in self.outputs))
        self.places = [self.windows.index(out.window) for out in self.outputs]
        self.plans = ReadPlans(layout, self.windows)
        self.wanted = list(
            dict.fromkeys((out.accumulator, place) for out, place in zip(self.outputs, self.places, strict=True))
        )
        self._wanted = set(self.wanted)
        self._levels = [layout.hops.index(window.hop) for window in self.windows]
        order = {extreme: place for place, extreme in enumerate(layout.codecs[0].extremes)}
        self.levels = [
            Level(
                hop,
                [w for w in range(len(self.windows)) if self._reads(w, level)],
                codec.numbers,
                [order[extreme] for extreme in codec.extremes],
            )
            for level, (hop, codec) in enumerate(zip(layout.hops, layout.codecs, strict=True))
        ]
        self._packed = [index for index in layout.codecs[0].packed if any(index == acc for acc, _ in self.wanted)]

    def _reads(self, window: int, level: int) -> bool:
        own = self._levels[window]
        return own == level or (own > level and self.windows[window].offset == 0)

    def states(self, reads: Sequence[tuple[Sequence[StoredSection], int]]) -> dict[_Wanted, list[Any]]:
        """Return, by accumulator and window, the state of each read: the sections of a key, and a time."""
        sections = [section for found, _ in reads for section in found]
        owners = [place for place, (found, _) in enumerate(reads) for _ in found]
        times = [t for found, t in reads for _ in found]
        more: dict[_Wanted, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        groups = list(self._groups(sections, owners, times)) if sections else []
        columns = _Columns(self.layout, Totals(groups, len(reads), len(self.windows), len(self.levels[0].extremes)))
        for owner, section, t in zip(owners, sections, times, strict=True):
            if section.header.pending or section.header.bases:
                for wanted, state in (*self._based(section, t), *self._pending(section, t)):
                    more[wanted][owner].append(state)
        if self._packed:
            for group in groups:
                for owner, wanted, state in self._unpacked(group):
                    more[wanted][owner].append(state)
        states = {}
        for wanted in self.wanted:
            accumulator = self.layout.accumulators[wanted[0]]
            states[wanted] = columns.states(*wanted)
            for owner, others in more.get(wanted, {}).items():
                states[wanted][owner] = accumulator.combine([states[wanted][owner], *others])
        return states

    def _groups(
        self, sections: Sequence[StoredSection], owners: Sequence[int], times: Sequence[int]
    ) -> Iterator[Group]:
        """Yield the parts of each level and form, with the bounds of the windows that read them."""
        kinds: dict[tuple[int, bool, int | None], int] = {}
        rows = [
            kinds.setdefault((t, section.fold, section.cut), len(kinds))
            for section, t in zip(sections, times, strict=True)
        ]
        bounds = np.zeros((len(kinds), len(self.levels), len(self.windows), 2), np.int64)
        for (t, fold, cut), kind in kinds.items():
            for w, window in enumerate(self.windows):
                for piece in self.layout.pieces(window, t, cut, fold=fold):
                    bounds[kind, piece.level, w] = _EVER if piece.start is None else piece.start, piece.end
        for number, level in enumerate(self.levels):
            if not level.windows:
                continue
            found: dict[bytes, tuple[list[Part], list[int]]] = {}
            for place, section in enumerate(sections):
                for part in section.parts[number]:
                    parts, places = found.setdefault(part.form.packed, ([], []))
                    parts.append(part)
                    places.append(place)
            for parts, places in found.values():
                kinds_of = [rows[place] for place in places] if len(kinds) > 1 else [0]
                yield Group(
                    level, parts, [owners[place] for place in places], bounds[kinds_of, number][:, level.windows]
                )

    def _based(self, section: StoredSection, t: int) -> Iterator[tuple[_Wanted, Any]]:
        """Yield what a section's bases and their tails add to windows over all history."""
        layout = self.layout
        for w, window in enumerate(self.windows):
            level = self._levels[w]
            if window.length is not None or not section.fold:
                continue
            end = floor_to(window.bounds(t)[1], layout.tails[level])
            tails = [packed for start, packed in section.header.tails[level] if start < end]
            indices = layout.base_accumulators[level]
            for packed in (section.header.bases[level], *tails):
                for index, data in zip(indices, packed, strict=True):
                    if (index, w) in self._wanted:
                        yield (index, w), layout.accumulators[index].unpack(data, section.writer)

    def _pending(self, section: StoredSection, t: int) -> Iterator[tuple[_Wanted, Any]]:
        """Yield what a section's pending rows add."""
        layout = self.layout
        for event_timestamp, arrival, sequence, values in section.header.pending:
            if section.cut is not None and event_timestamp < section.cut:
                continue
            order = Order(event_timestamp, arrival, section.writer, sequence)
            for index, w in self.wanted:
                start, end = self.windows[w].bounds(t)
                if event_timestamp < end and (start is None or event_timestamp >= start):
                    position, accumulator = layout.positions[index], layout.accumulators[index]
                    value = True if position is None else clean(values[position])
                    if value is not None:
                        yield (index, w), accumulator.add(accumulator.empty(), value, order)

    def _unpacked(self, group: Group) -> Iterator[tuple[int, _Wanted, Any]]:
        """Yield, by read, the states of tiles that have no fixed width."""
        codec = self.layout.codecs[self.levels.index(group.level)]
        if not codec.packed:
            return
        for part, owner, ranges in packed_ranges(group):
            states = decode_packed(part.rest)
            for w, (first, end) in ranges.items():
                for place, index in enumerate(codec.packed):
                    if (index, w) in self._wanted:
                        unpack = self.layout.accumulators[index].unpack
                        for packed in states[first:end]:
                            yield owner, (index, w), unpack(packed[place], part.writer)


class _Columns:
    """States by accumulator and window, put together from sums of digits and least keys."""

    def __init__(self, layout: WindowLayout, totals: Totals) -> None:
        self._layout = layout
        self._sums, self._keys = totals.sums, totals.keys
        self._n = totals.n
        self._digits: dict[Number, list[tuple[int, int]]] = defaultdict(list)
        for (number, digit), place in totals.columns.items():
            self._digits[number].append((place, digit * DIGIT_BITS))
        self._extremes = {
            extreme.accumulator: (place, extreme) for place, extreme in enumerate(layout.codecs[0].extremes)
        }

    def _number(self, accumulator: int, part: int, window: int) -> list[int]:
        digits = self._digits.get(Number(accumulator, part))
        if not digits:
            return [0] * self._n
        sums = self._sums[window]
        (place, shift), *others = digits
        total = [value << shift for value in sums[place]] if shift else sums[place]
        for place, shift in others:
            total = [value + (more << shift) for value, more in zip(total, sums[place], strict=True)]
        return total

    def states(self, index: int, window: int) -> list[Any]:
        """Return the states of an accumulator in a window, by read; empty ones where they have no fixed width."""
        accumulator = self._layout.accumulators[index]
        if index in self._extremes:
            place, extreme = self._extremes[index]
            marked = self._number(index, 0, window)
            return [extreme.value(key, n) for key, n in zip(self._keys[window][place], marked, strict=True)]
        if isinstance(accumulator, Count):
            return list(self._number(index, 0, window))
        state = accumulator.empty()
        if not isinstance(state, (SumState, MomentState)):
            return [state] * self._n
        kind = SumState if isinstance(accumulator, Sum) else MomentState
        return list(map(kind, *(self._number(index, part, window) for part in range(len(state)))))
