"""What a worker knows of the stores and views that it serves, as of its last look at them."""

from __future__ import annotations

import time

import msgspec

READY, EMPTY, FILLING, CHANGING = "ready", "empty", "filling", "changing"
"""States of a view: it is served; nothing was written for it yet; its online state was lost and comes back; it is
served as it was before a change of definitions, whose state is being filled."""


class ViewHealth(msgspec.Struct, frozen=True):
    """The state of a view: one of the above, and why it is not ready."""

    state: str
    reason: str = ""


class Health(msgspec.Struct, frozen=True):
    """What a look found.

    Attributes
    ----------
    at
        When, by the monotonic clock, in seconds.
    revision
        Revision of the definitions in use.
    store, registry, definitions
        What is wrong with the online store, with the registry, and with the newest definitions; empty: nothing.
    is_forgetful
        Whether the online store may have forgotten some of what was written, so that nothing is served from it.
    views
        By name.
    """

    at: float
    revision: int = 0
    store: str = "no look was taken yet"
    is_forgetful: bool = False
    registry: str = ""
    definitions: str = ""
    views: dict[str, ViewHealth] = {}

    def problems(self, patience: float) -> list[str]:
        """Return why the worker must not be sent requests; empty where it may.

        A view for which nothing was ever written keeps no others from being served, a registry that is away keeps
        nothing from being served, and a change of definitions that cannot be loaded leaves the old ones in use.

        Parameters
        ----------
        patience
            For how many seconds what was found counts.
        """
        found = []
        late = time.monotonic() - self.at
        if late > patience:
            found.append(f"the online store has not answered for {late:.0f} s")
        if self.store:
            found.append(self.store)
        states = {view.state for view in self.views.values()}
        lost = [name for name, view in self.views.items() if view.state == FILLING]
        if lost:
            found.append(f"online state is missing: {', '.join(sorted(lost))}")
        elif states == {EMPTY}:
            found.append("nothing was written for any view yet: run featurestore materialize, or push or stream rows")
        return found
