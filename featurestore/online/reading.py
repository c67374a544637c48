"""What a lookup asks of the stored state of one view: which keys to read, how far time must move, values by column.

A `Reading` holds what is stored of some entity keys, each once. A lookup makes one for each view that it reads, and
gives it the values of the keys that it named, as often as it names some: normally once. It is made of
``(view, entities, features)``: the `OnlineView`, the entity keys (`framing.entity_key`; None for a key with a null,
which matches nothing), and the places, among the view's features, of those asked for.

What is read by different calls may be of different moments, and the parts of a key group belong together only as read
by one: whoever needs more of a key after the first call names its header again, and all of its chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from featurestore.semantics.rows import Status

T = TypeVar("T", covariant=True)  # noqa: PLC0105  (only ever read)


class ViewColumns(NamedTuple):
    """A view's answer for some places.

    Attributes
    ----------
    values
        By feature, in the order asked for, the value of each place; None where the status says why there is none.
        Timestamps are microseconds. Callers must not change the lists, which may be shared.
    statuses
        By feature, the status of each place. Features may share one list.
    event_timestamps
        Of a state view, when the row behind each place's values happened (microseconds); None where there is none.
        None of a window view.
    sequences
        By place, writer to the last sequence that was visible (of batch: the job).
    """

    values: Sequence[Sequence[Any]]
    statuses: Sequence[Sequence[Status]]
    event_timestamps: Sequence[int | None] | None
    sequences: Sequence[Mapping[str, int]]


class Times(Sequence[tuple[int, int]]):
    """What is to be evaluated: for each row of a request a key's place and a time, kept by column.

    Attributes
    ----------
    places, times
        By row.
    t
        The time of all rows, where it is one; else None.
    """

    __slots__ = ("places", "t", "times")

    def __init__(self, places: Sequence[int], times: Sequence[int], t: int | None = None) -> None:
        self.places = places
        self.times = times
        self.t = t

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.places, self.times, strict=True)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> Times: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | Times:
        if isinstance(index, slice):
            return Times(self.places[index], self.times[index], self.t)
        return self.places[index], self.times[index]


class Lazily(Sequence[T]):
    """A sequence whose items are made when they are asked for."""

    __slots__ = ("_count", "_make")

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(self._count)[index]
        return [self._make(place) for place in places] if isinstance(places, range) else self._make(places)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to a list, which has none

    def __repr__(self) -> str:
        return repr(list(self))


class Reading(Protocol):
    """What is stored of some entity keys of a view.

    A key is given by its place among the entities that the reading was made with.
    """

    def keys(self, times: Times) -> list[bytes]:
        """Return the store's keys that were not loaded yet and are needed to evaluate each (place, time)."""

    def load(self, keys: Sequence[bytes], values: Sequence[bytes | None], cut: int | None) -> None:
        """Take in what was read.

        Parameters
        ----------
        keys
            What `keys` returned.
        cut
            Of a lambda view, the cut in force that was read with them; None before the first.
        """

    def settled(self, t: int) -> bool:
        """Return whether, for sure, `move` returns `t`, the reader's clock, for every place; False needs no work."""

    def move(self, place: int, t: int, *, moved: bool) -> int:
        """Return the earliest time from `t` on at which every row of the tile that holds it counts, if not pending.

        Parameters
        ----------
        moved
            Whether `t` is later than the reader's clock: then a tile that begins at `t` does not count at all.
        """

    def evaluate(self, times: Times) -> ViewColumns:
        """Return the values of each (place, time), with all that `keys` names loaded."""
