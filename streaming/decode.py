"""From the bytes of a record to its fields."""

from __future__ import annotations

from typing import Any

import msgspec

from featurestore.errors import RowError

MAX_BYTES = 1 << 20
MAX_DEPTH = 64


class JsonDecoder:
    """Decodes JSON objects, within bounds.

    Parameters
    ----------
    max_bytes
        Size up to which a payload is read.
    max_depth
        Levels of objects and arrays up to which it is read; the outer object is the first.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> None:
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def __call__(self, payload: bytes) -> dict[str, Any]:
        """Return the fields of a record; where a name occurs twice, the last counts.

        Raises
        ------
        RowError
            Where the payload is too large, nested too deep, or not one JSON object in UTF-8.
        """
        if len(payload) > self._max_bytes:
            raise RowError(f"the record has {len(payload)} bytes; at most {self._max_bytes} are read")
        try:
            fields = self._decode(payload)
        except RecursionError as error:
            raise self._too_deep() from error
        except ValueError as error:  # also msgspec's errors and text that is not UTF-8
            raise RowError(f"the record is not a JSON object: {error}") from error
        # Only text with that many brackets can be that deep, and hardly any has.
        if payload.count(b"{") + payload.count(b"[") > self._max_depth and _depth(fields) > self._max_depth:
            raise self._too_deep()
        return fields

    def _too_deep(self) -> RowError:
        return RowError(f"the record is nested more than {self._max_depth} levels deep")


def _depth(value: Any) -> int:
    """Return how many levels of objects and arrays there are, without recursion."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
