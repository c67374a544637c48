"""The plan's SQL in the dialects of the engines, by sqlglot."""

from __future__ import annotations

from featurestore.errors import FeatureStoreError
from featurestore.offline.duckdb.session import identifier
from featurestore.offline.plan import Scan

DIALECTS = ("duckdb", "spark")


def scan_sql(scan: Scan, dialect: str, source: str | None = None, *, pretty: bool = True) -> str:
    """Return the query that reads a scan's rows.

    Parameters
    ----------
    dialect
        One of `DIALECTS`.
    source
        The relation to read from, as SQL; by default a name that stands for the log.
    """
    if dialect not in DIALECTS:
        raise FeatureStoreError(f"no engine speaks {dialect!r}; use {' or '.join(map(repr, DIALECTS))}")
    import sqlglot

    named = source or identifier(f"log_{scan.log.fingerprint[:12]}")
    sql = scan.sql(named, positions=True)
    (statement,) = sqlglot.transpile(sql, read="duckdb", write=dialect, pretty=pretty)
    return statement
