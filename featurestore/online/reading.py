"""What a lookup asks of the stored state of one view: which keys to read, how far time must move, values by column.

A `Reading` holds what is stored of some entity keys, each once. A lookup makes one for each view that it reads, and
gives it the values of the keys that it named, as often as it names some: normally once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from featurestore.semantics.rows import Status


class ViewColumns(NamedTuple):
    """A view's answer for some places.

    Attributes
    ----------
    values
        By feature, in the view's order, the value of each place; None where the status says why there is none.
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


class Reading(Protocol):
    """What is stored of some entity keys of a view.

    A key is given by its place among the entities that the reading was made with; None stands for a key with a null,
    which matches nothing.
    """

    def keys(self, times: Sequence[tuple[int, int]]) -> list[bytes]:
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

    def move(self, place: int, t: int, *, moved: bool) -> int:
        """Return the earliest time from `t` on at which every row of the tile that holds it counts, if not pending.

        Parameters
        ----------
        moved
            Whether `t` is later than the reader's clock: then a tile that begins at `t` does not count at all.
        """

    def evaluate(self, times: Sequence[tuple[int, int]]) -> ViewColumns:
        """Return the values of each (place, time), with all that `keys` names loaded."""
