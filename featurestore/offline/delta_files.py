"""Reads the Delta tables of others: batch sources."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from featurestore.errors import SourceError


def delta_dataset(path: Path) -> ds.Dataset:
    """Return the newest version of a Delta table.

    Raises
    ------
    SourceError
        Where there is no Delta table or this version cannot read it.
    """
    try:
        return DeltaTable(str(path)).to_pyarrow_dataset()
    except (DeltaError, OSError, pa.ArrowException) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise SourceError(f"{path} cannot be read as a Delta table: {lines[0]}") from error


def is_delta(path: Path) -> bool:
    """Return whether a folder holds a Delta table."""
    return (path / "_delta_log").is_dir()
