"""How merges become calls of the script: many writes that are alike in one go, and the same as one by one."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.online.contract import NEVER, Outcome, SectionWrite
from featurestore.online.redis_keys import Keys
from featurestore.online.redis_merge import Call, calls
from featurestore.testing.online_suite import C

KEYS = Keys(b"fs:", 1)


def commands(writes: list[SectionWrite]) -> tuple[list[tuple[Any, ...]], list[int], list[Outcome | None]]:
    """Return the commands that make writes, their places, and the outcomes that need no command."""
    outcomes: list[Outcome | None] = [None] * len(writes)
    made = list(calls(writes, KEYS, {b"\x00m": b"1"}, outcomes))
    assert all(call.size <= (1 << 20) + 500_000 for call in made)
    return [call.command(KEYS, b"generation") for call in made], [at for call in made for at in call.places], outcomes


def write(n: int, **more: Any) -> SectionWrite:
    values: dict[str, Any] = {"expected": None, "sequence": 7, "payload": b"p" * (1 + n % 3), "lifetime": None}
    return SectionWrite(b"h%d" % n, more.pop("writer", "batch"), **{**values, **more})


@pytest.mark.parametrize("lifetime", [None, 1, 5_000_001, 10**30])
def test_writes_that_are_alike_are_told_as_if_one_by_one(lifetime: int | None) -> None:
    writes = [write(n, lifetime=lifetime) for n in range(500)]
    one_by_one = Call(0, {b"\x00m": b"1"})
    for place, item in enumerate(writes):
        one_by_one.add(place, item, KEYS.prefix)
    told, places, _ = commands(writes)
    assert told == [one_by_one.command(KEYS, b"generation")]
    assert places == one_by_one.places


@pytest.mark.parametrize(
    "odd",
    [
        {"expected": 3},
        {"sequence": 8},
        {"writer": "other"},
        {"lifetime": 5},
        {"drop": ("old",)},
        {"chunks": {C: b"x"}},
        {"sequence": NEVER},
        {"payload": b"x" * 1_500_000},
    ],
)
def test_writes_that_are_not_alike_keep_their_order_and_places(odd: dict[str, Any]) -> None:
    writes = [write(n) for n in range(1200)]
    writes[700] = write(700, **odd)
    _, places, outcomes = commands(writes)
    if odd == {"sequence": NEVER}:
        assert outcomes[700] is Outcome.IGNORED
        assert places == [n for n in range(1200) if n != 700]
    else:
        assert places == list(range(1200))
        assert outcomes == [None] * 1200
