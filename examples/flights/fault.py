"""A fault on purpose: one bit of one stored value is flipped, to see whether verification finds it."""

from __future__ import annotations

from typing import Any

from featurestore.errors import OnlineStoreError
from featurestore.online.framing import parse
from featurestore.online.view import OnlineView


def flip_stored_value(view: OnlineView, key: tuple[Any, ...], feature: str) -> None:
    """Flip the lowest bit of an integer feature in what the online store holds for a key.

    Parameters
    ----------
    view
        The stored state of a state view with one writer.
    key
        The values of the view's join keys, in their order.

    Raises
    ------
    OnlineStoreError
        Where no integer is stored.
    """
    entity = view.entity(key)
    header = view.header(entity)
    with view.store.snapshot() as snapshot:
        (stored,) = snapshot.get([header])
    sections = [] if stored is None else parse(stored)
    place = [column.name for column in view.view.columns].index(feature)
    state: Any = view.decode(sections[0]) if len(sections) == 1 else None
    if state is None or state.newest is None or not isinstance(state.newest.values[place], int):
        raise OnlineStoreError(f"view {view.view.name!r} holds no integer {feature!r} of key {key!r}")
    state.newest.values[place] ^= 1
    writer, sequence, _ = sections[0]
    view.store.delete([header])  # else the store would refuse to replace it by a section that is not newer
    view.store.merge([view.write(entity, state, [], writer, expected=None, sequence=sequence)])
