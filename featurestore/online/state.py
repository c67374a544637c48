"""What one writer's section of one key of a state view holds, and its stored form.

Stored form, little-endian: eight bytes of which the lowest is flags and the others the newest row's event time, in so
far as it fits (else all of it follows); where the flags say so the section's greatest arrival, the row's arrival, and a
bitmap of the nulls among the columns of fixed width; these columns, packed by type and within one by name; then, as one
MessagePack array, the other columns, and where the flags say so the pending rows and the whole key of a shortened one.
What the flags leave out is equal to what stands beside it: the section's arrival to its row's, the row's arrival to its
event time. A section without a newest row has a single byte of flags. All columns come back to the bit; a null of fixed
width is stored as zero.

The sequence of the newest row is not kept. Rows that come later have greater ones than the section, and of two rows of
one writer with the same event time and arrival none waits while the other is due: so nothing asks for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from featurestore.definitions import Field
from featurestore.errors import OnlineStoreError
from featurestore.online.rows import OnlineRow, row_order, split_pending
from featurestore.types import ValueType

NEWEST, WIDE, ARRIVAL, LATE, NULLS, EXTRAS = (1 << bit for bit in range(6))
"""Flags: there is a newest row; and what is stored beside it."""

FLAG_BITS = 8
NARROW = 1 << 63 - FLAG_BITS
"""An event time is stored beside the flags where it is at least minus this and less than this: from 829 to 3111."""

_CODES = {"float64": "d", "int64": "q", "timestamp": "q", "int32": "i", "float32": "f", "bool": "?"}
_ORDER = "dqif?v"
_ZEROS: dict[str, Any] = {"d": 0.0, "q": 0, "i": 0, "f": 0.0, "?": False, "v": b""}
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class StateSection:
    """The newest row that is due, and the pending ones."""

    __slots__ = ("arrival", "newest", "pending")

    def __init__(self) -> None:
        self.arrival: int | None = None
        self.newest: OnlineRow | None = None
        self.pending: list[OnlineRow] = []

    def add(self, rows: Iterable[OnlineRow]) -> None:
        """Take in more rows."""
        self.arrival, due, self.pending = split_pending(self.pending, rows, self.arrival)
        newest = max(due, default=None, key=row_order)
        if newest is not None and (self.newest is None or newest[:3] > self.newest[:3]):
            self.newest = newest


class Packed(NamedTuple):
    """A column of fixed width.

    Attributes
    ----------
    place
        Its place among the view's columns.
    code
        How `struct` names its type; ``v`` for vectors.
    vector
        Of a vector, the form of its elements.
    """

    place: int
    code: str
    vector: struct.Struct | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return struct.calcsize("<" + self.code) if self.vector is None else self.vector.size


class Form:
    """How a section with certain flags is laid out.

    Attributes
    ----------
    size
        Length of the part of fixed width, in bytes.
    has_tail
        Whether MessagePack follows it.
    is_nullable
        Whether a column may be null.
    wide, arrival, late, nulls
        The place, among the fields of the part of fixed width, of an event time that is not beside the flags, the
        section's arrival, the row's arrival and the bitmap; 0 where it has none.
    columns
        The place of the first column among the fields.
    """

    def __init__(self, flags: int, fixed: Sequence[Packed], variable: int) -> None:
        self.flags = flags
        code = ["<q" if flags & NEWEST else "<B"]
        self.wide = self.arrival = self.late = self.nulls = 0
        if flags & WIDE:
            self.wide = len(code)
            code.append("q")
        if flags & ARRIVAL:
            self.arrival = len(code)
            code.append("q")
        if flags & LATE:
            self.late = len(code)
            code.append("q")
        if flags & NULLS:
            self.nulls = len(code)
            code.append(f"{-(-len(fixed) // 8)}s")
        self.columns = len(code)
        if flags & NEWEST:
            code += [column.code if column.vector is None else f"{column.size}s" for column in fixed]
        form = struct.Struct("".join(code))
        self.size = form.size
        self.pack = form.pack
        self.unpack_from = form.unpack_from
        self.has_tail = bool(flags & EXTRAS or (flags & NEWEST and variable))
        self.is_nullable = bool(flags & NULLS or variable)

    def time(self, fields: Sequence[Any]) -> int:
        """Return the newest row's event time."""
        time: int = fields[self.wide] if self.wide else fields[0] >> FLAG_BITS
        return time


class Head(NamedTuple):
    """A section as it is stored, its columns not yet taken apart.

    Attributes
    ----------
    fields
        The part of fixed width.
    tail
        The rest.
    """

    form: Form
    fields: tuple[Any, ...]
    tail: Sequence[Any]


class StateCodec:
    """The stored form of the sections of a state view.

    Parameters
    ----------
    columns
        The view's columns, in the order of a row's values.

    Attributes
    ----------
    fixed
        The columns of fixed width, as they are stored.
    variable
        The places of the other ones.
    """

    def __init__(self, columns: Sequence[Field]) -> None:
        packed = [_packed(place, field.dtype) for place, field in enumerate(columns)]
        fixed = [column for column in packed if column is not None]
        self.fixed = sorted(fixed, key=lambda column: _ORDER.index(column.code))
        self.variable = [place for place, column in enumerate(packed) if column is None]
        order = [*(column.place for column in self.fixed), *self.variable]
        self._stored_at = sorted(range(len(order)), key=order.__getitem__)
        self.vectors = [(place, column.vector) for place, column in enumerate(self.fixed) if column.vector is not None]
        self.dtypes: dict[tuple[int, int], Any] = {}

    @cached_property
    def forms(self) -> list[Form]:
        """The form for each combination of flags."""
        return [Form(flags, self.fixed, len(self.variable)) for flags in range(2 * EXTRAS)]

    def encode(self, section: StateSection, entity: bytes | None) -> bytes:
        """Return a section's bytes; `entity` is the whole key where the stored one is shortened."""
        row, arrival = section.newest, section.arrival
        extras = [[*map(tuple, section.pending)], entity] if section.pending or entity is not None else []
        flags = EXTRAS if extras else 0
        fields: list[Any] = []
        if row is None:
            if arrival is not None:
                flags |= ARRIVAL
                fields.append(arrival)
            return self.forms[flags].pack(flags, *fields) + (_encode(extras) if extras else b"")
        flags |= NEWEST
        time = row.event_timestamp
        if not -NARROW <= time < NARROW:
            flags |= WIDE
            fields.append(time)
            time = 0
        if arrival != row.arrival:
            flags |= ARRIVAL
            fields.append(arrival)
        if row.arrival != row.event_timestamp:
            flags |= LATE
            fields.append(row.arrival)
        columns, nulls = self._pack(row.values)
        if nulls:
            flags |= NULLS
            fields.append(nulls.to_bytes(-(-len(self.fixed) // 8), "little"))
        head = self.forms[flags].pack(time << FLAG_BITS | flags, *fields, *columns)
        if not (extras or self.variable):
            return head
        return head + _encode([*(row.values[place] for place in self.variable), *extras])

    def _pack(self, values: Sequence[Any]) -> tuple[list[Any], int]:
        """Return the fields of the columns of fixed width, and which of them are null."""
        columns, nulls = [], 0
        for order, (place, code, vector) in enumerate(self.fixed):
            value = values[place]
            if value is None:
                nulls |= 1 << order
                value = _ZEROS[code]
            elif vector is not None:
                value = vector.pack(*value)
            columns.append(value)
        return columns, nulls

    def head(self, payload: bytes, start: int = 0, end: int | None = None) -> Head:
        """Return a stored section's fields; it is that part of a value from `start` to `end`.

        Raises
        ------
        OnlineStoreError
            Where it is no section.
        """
        try:
            form = self.forms[payload[start]]
            fields = form.unpack_from(payload, start)
            tail = _decode(payload[start + form.size : end]) if form.has_tail else ()
        except (struct.error, IndexError, msgspec.MsgspecError) as error:
            raise OnlineStoreError(
                f"a stored section is damaged ({error}): fill the view's online state anew"
            ) from error
        return Head(form, fields, tail)

    def columns(self, head: Head) -> list[Any]:
        """Return the newest row's columns as they are stored: those of fixed width, then the others."""
        form, fields, tail = head
        values = [*fields[form.columns :], *(tail[: len(self.variable)])]
        for place, vector in self.vectors:
            values[place] = [*vector.unpack(values[place])]
        if form.nulls:
            nulls = int.from_bytes(fields[form.nulls], "little")
            for place in range(len(self.fixed)):
                if nulls >> place & 1:
                    values[place] = None
        return values

    def order(self, head: Head) -> tuple[int, int] | None:
        """Return event time and arrival of a section's newest row."""
        form, fields, _ = head
        if not form.flags & NEWEST:
            return None
        time = form.time(fields)
        return time, fields[form.late] if form.late else time

    def pending(self, head: Head) -> list[OnlineRow]:
        """Return the pending rows."""
        return [OnlineRow(*row) for row in head.tail[-2]] if head.form.flags & EXTRAS else []

    def decode(self, payload: bytes, sequence: int) -> StateSection:
        """Return the section that `encode` wrote; `sequence`, which is the section's, stands for the newest row's."""
        head = self.head(payload)
        section = StateSection()
        order = self.order(head)
        if order is not None:
            columns = self.columns(head)
            section.newest = OnlineRow(*order, sequence, [columns[place] for place in self._stored_at])
        section.pending = self.pending(head)
        if head.form.arrival:
            section.arrival = head.fields[head.form.arrival]
        elif section.newest is not None:
            section.arrival = section.newest.arrival
        return section

    def whole_key(self, payload: bytes) -> bytes | None:
        """Return the whole entity key that a section holds where the stored one is shortened."""
        head = self.head(payload)
        entity: bytes | None = head.tail[-1] if head.form.flags & EXTRAS else None
        return entity

    def stored_at(self, place: int) -> int:
        """Return where, among the columns as they are stored, a column of the view is."""
        return self._stored_at[place]


def _packed(place: int, dtype: ValueType) -> Packed | None:
    """Return how a column is packed; None where its width is not fixed."""
    if dtype.kind == "vector":
        return Packed(place, "v", struct.Struct(f"<{dtype.length}{_CODES[dtype.item]}"))
    code = _CODES.get(dtype.kind)
    return None if code is None else Packed(place, code)
