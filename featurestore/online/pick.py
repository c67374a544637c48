"""From a stored row of a state view to the values of the features asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from featurestore.online.state import Form, StateCodec

Values = tuple[Any, ...]


class Pick:
    """Some features of a state view.

    Parameters
    ----------
    columns
        The features' columns, by place among the view's.

    Attributes
    ----------
    places
        The features' columns, by place among the columns as they are stored.
    groups
        By type, the name that `state_arrays.fields_of` gives the columns of that type, which of them are picked, and
        as which features.
    """

    def __init__(self, codec: StateCodec, columns: Sequence[int]) -> None:
        self.columns = tuple(columns)
        self.places = [codec.stored_at(column) for column in columns]
        vectors = dict(codec.vectors)
        self._fixed = len(codec.fixed)
        self._vectors = [(order, vectors[place]) for order, place in enumerate(self.places) if place in vectors]
        self._pickers: dict[int, Callable[[Values], Values]] = {}
        self.groups = self._groups(codec)

    def _groups(self, codec: StateCodec) -> list[tuple[str, Any, list[int]]]:
        members: dict[str, list[tuple[int, int]]] = {}
        for order, place in enumerate(self.places):
            if place < self._fixed:
                code = codec.fixed[place].code
                first = next(start for start, column in enumerate(codec.fixed) if column.code == code)
                name = code if code != "v" else f"v{place}"
                members.setdefault(name, []).append((place - first, order))
        return [
            (name, _selection([place for place, _ in found]), [order for _, order in found])
            for name, found in members.items()
        ]

    def row(self, form: Form, fields: Values, tail: Sequence[Any]) -> Values:
        """Return the values of a section's newest row."""
        if tail:
            fields = (*fields, *tail)
        picker = self._pickers.get(form.columns)
        if picker is None:
            picker = self._pickers[form.columns] = self._picker(form.columns)
        values = picker(fields)
        if not form.nulls:
            return values
        nulls = int.from_bytes(fields[form.nulls], "little")
        return tuple(
            [
                None if place < self._fixed and nulls >> place & 1 else value
                for place, value in zip(self.places, values, strict=True)
            ]
        )

    def _picker(self, start: int) -> Callable[[Values], Values]:
        """Return what takes the values out of fields of which the columns begin at `start`."""
        places = [start + place for place in self.places]
        selected = _selection(places)
        pick: Callable[[Values], Values] = itemgetter(selected) if isinstance(selected, slice) else itemgetter(*places)
        if not self._vectors:
            return pick

        def pick_and_unpack(fields: Values) -> Values:
            values = list(pick(fields))
            for order, vector in self._vectors:
                values[order] = list(vector.unpack(values[order]))
            return tuple(values)

        return pick_and_unpack


def _selection(places: list[int]) -> slice | list[int]:
    """Return places as a slice where they are in a row."""
    if places == list(range(places[0], places[0] + len(places))):
        return slice(places[0], places[0] + len(places))
    return places
