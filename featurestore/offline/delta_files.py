"""Reads the Delta tables of others: batch sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from featurestore.errors import SourceError


class DeltaSnapshot(NamedTuple):
    """One version of a Delta table, which stays the same whatever is written meanwhile.

    Attributes
    ----------
    dataset
        Its rows.
    token
        Names the table and the version.
    partitions
        The partitions, as ``column=value/...``, sorted.
    """

    dataset: ds.Dataset
    token: str
    partitions: list[str]


def delta_snapshot(location: str, options: Mapping[str, str]) -> DeltaSnapshot:
    """Return the newest version of a Delta table.

    Parameters
    ----------
    location
        Its folder, or ``s3://`` URL.
    options
        How deltalake reaches it.

    Raises
    ------
    SourceError
        Where there is no Delta table or this version cannot read it.
    """
    try:
        table = DeltaTable(location, storage_options=dict(options) or None)
        parts = ["/".join(f"{name}={value}" for name, value in part.items()) for part in table.partitions()]
        token = f"{table.metadata().id} {table.version()}"
        return DeltaSnapshot(table.to_pyarrow_dataset(), token, sorted(parts))
    except (DeltaError, OSError, pa.ArrowException) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise SourceError(f"{location} cannot be read as a Delta table: {lines[0]}") from error
