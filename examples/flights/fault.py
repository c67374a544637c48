"""A fault on purpose: one bit of one stored value is flipped, to see whether verification finds it."""

from __future__ import annotations

from typing import Any

import msgspec

from featurestore.errors import OnlineStoreError
from featurestore.online.view import OnlineView


def flip_stored_value(view: OnlineView, key: tuple[Any, ...], value: int) -> None:
    """Flip the lowest bit of an integer in what the online store holds for a key.

    Parameters
    ----------
    view
        The stored state of a state view.
    key
        The values of the view's join keys, in their order.
    value
        The integer as it is stored; it must be greater than 255, so that its bytes are found.

    Raises
    ------
    OnlineStoreError
        Where the integer does not occur exactly once.
    """
    place = view.header(view.entity(key))
    with view.store.snapshot() as snapshot:
        (stored,) = snapshot.get([place])
    encoded = msgspec.msgpack.encode(value)
    if stored is None or stored.count(encoded) != 1:
        raise OnlineStoreError(f"view {view.view.name!r}, key {key!r}: {value} is not there exactly once")
    flipped = encoded[:-1] + bytes((encoded[-1] ^ 1,))
    view.store.put({place: stored.replace(encoded, flipped)})
