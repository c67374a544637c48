"""Every key and time at which any of some views got a row: the entity frame of a retrieval that has none."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from featurestore.definitions.resolve import Read
from featurestore.offline.duckdb.scan import SOURCE
from featurestore.offline.duckdb.session import engine_errors, identifier, literal_path, session
from featurestore.offline.plan import CutsOf, LogOf, Scan, ViewTask


def changes(reads: Sequence[Read], log_of: LogOf, cuts_of: CutsOf, between: tuple[int, int]) -> pa.Table:
    """Return the distinct (join keys, ``event_timestamp``) of the rows that count, by time and then by keys.

    Parameters
    ----------
    reads
        The uses of views; all have the same columns of join keys.
    between
        Event times in microseconds, inclusive and exclusive.
    """
    names = sorted(key.name for key in reads[0].keys)
    types = {key.name: key.dtype.to_arrow() for key in reads[0].keys}
    schema = pa.schema([*types.items(), ("event_timestamp", pa.timestamp("us", "UTC"))])
    parts, files = [], {}
    for number, read in enumerate(reads):
        log, cuts = log_of(read.view), cuts_of(read.view)
        task = ViewTask(read.name, read.view, (), tuple(key.name for key in read.keys))
        scan = Scan(log, (task,), (), *between, cuts[-1].at if cuts else None)
        found = log.files(*between)
        if not found:
            continue
        files[f"files{number}"] = [literal_path(file) for file in found]
        columns = {column: key.name for key, column in zip(read.view.join_keys, task.keys, strict=True)}
        listed = "".join(f"{identifier(columns[name])} AS {identifier(name)}, " for name in names)
        sql = scan.sql(SOURCE.replace("$files", f"$files{number}"), positions=False)
        parts.append(f"SELECT {listed}event_timestamp FROM ({sql})")
    if not parts:
        return schema.empty_table()
    order = ", ".join(["event_timestamp", *map(identifier, names)])
    query = f"SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)}) ORDER BY {order}"
    with session() as connection, engine_errors("the changes could not be read"):
        return connection.sql(query, params=files).to_arrow_table().select(schema.names).cast(schema)
