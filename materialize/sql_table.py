"""Tables and queries of SQL databases, read through SQLAlchemy in one transaction each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.warehouse import SqlSource
from featurestore.errors import SourceError, suggest
from featurestore.materialize.sql_engine import open_engine
from featurestore.materialize.sql_types import SqlColumn, postgres_columns, reflected_column, to_array
from featurestore.materialize.tables import Partition, Span, TableReader

_BATCH_ROWS = 10_000
_FIRST, _LAST = to_micros(datetime.min), to_micros(datetime.max)  # noqa: DTZ901  (naive is UTC)
_COLON = re.compile(r"(?<![:\w\\]):(?=\w)")
_LOCKED = """
SELECT DISTINCT format('%I.%I', n.nspname, c.relname)
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p')
AND n.nspname <> 'pg_catalog' AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1
"""
# Databases in which a transaction sees one state from its first statement on.
_ONE_STATE = {"postgresql", "mysql", "mariadb"}
_NO_RIGHT = "42501"
_NO_TABLE = {"42P01", "3F000"}


class SqlTable(TableReader):
    """Reads a table or a query of an SQL database.

    From the first call until it is closed a reader sees one state of PostgreSQL, and of MySQL with InnoDB; statements
    that would change a table's columns, or truncate it, wait until then. Of other databases each call sees one state,
    as far as the database grants that to a statement.

    Parameters
    ----------
    source
        The source.
    settings
        Its connection: ``url``, and ``connect_args`` for the driver.

    Raises
    ------
    SourceError
        Where a setting is missing or wrong.
    MissingExtraError
        Where the database's driver is not installed.
    """

    def __init__(self, source: SqlSource, settings: Mapping[str, Any]) -> None:
        self._source = source
        self._label = f"SqlSource {source.name!r}"
        self._engine = open_engine(self._label, source.connection, settings)
        self._dialect = self._engine.dialect.name
        self._held: sa.Connection | None = None
        # SQLite's times are text in whatever form they were written, which does not compare like times.
        self.prunes = self._dialect != "sqlite"

    def schema(self) -> pa.Schema:
        """Return the columns and their types; no rows are read."""
        with self._connected() as connection:
            return pa.schema([(column.name, column.arrow) for column in self._columns(connection)])

    def batches(self, columns: Sequence[str] | None, span: Span) -> Iterator[pa.RecordBatch]:
        """Yield the rows, through a cursor of the server where the driver has such."""
        with self._connected() as connection:
            known = {column.name: column for column in self._columns(connection)}
            for name in columns or ():
                if name not in known:
                    raise SourceError(f"{self._label}: {self._place} has no column {name!r}{suggest(name, known)}")
            chosen = [known[name] for name in (known if columns is None else columns)]
            table = self._from(list(known.values()))
            statement = sa.select(*(column.selected(table) for column in chosen))
            time = known.get(span.column)
            if time is not None and self.prunes:
                statement = statement.where(_within(table.c[time.name], time.arrow, self._bounds(span)))
            streaming = connection.execution_options(stream_results=True, yield_per=_BATCH_ROWS)
            with closing(streaming.execute(statement)) as result:
                for rows in result.partitions():
                    yield self._batch(rows, chosen)

    def partitions(self) -> list[Partition]:
        """Return the partitions of a partitioned table of PostgreSQL; none of any other."""
        if self._dialect != "postgresql" or not self._source.table:
            return []
        children = sa.text(
            "SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = CAST(:parent AS regclass)"
        )
        with self._connected() as connection:
            names = connection.execute(children, {"parent": self._postgres_name}).scalars()
            return [Partition(name) for name in sorted(names)]

    def close(self) -> None:
        """Close the connection."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    @property
    def _place(self) -> str:
        return f"the table {self._source.table!r}" if self._source.table else "the query"

    @property
    def _postgres_name(self) -> str:
        parts = self._source.table.rpartition(".")
        return ".".join('"' + part.replace('"', '""') + '"' for part in parts[::2] if part)

    def _table(self, columns: Sequence[sa.ColumnClause[Any]] = ()) -> sa.TableClause:
        schema, _, name = self._source.table.rpartition(".")
        return sa.table(name, *columns, schema=schema or None)

    def _from(self, columns: Sequence[SqlColumn]) -> sa.FromClause:
        typed = [sa.column(column.name, column.type) for column in columns]
        if self._source.table:
            return self._table(typed)
        return sa.text(_escaped(self._source.query)).columns(*typed).subquery("source")

    def _columns(self, connection: sa.Connection) -> list[SqlColumn]:
        """Return the columns as the database describes them now; fails where they may not be read."""
        if self._source.table and self._dialect != "postgresql":
            reflected = self._reflected(connection)
        elif self._dialect == "sqlite":
            reflected = self._reflected_query(connection)
        else:
            reflected = []
        origin: sa.FromClause = self._table()
        if self._source.query:
            origin = sa.text(f"({_escaped(self._source.query)}) AS source")  # type: ignore[assignment]
        with connection.execute(sa.select(sa.text("*")).select_from(origin).where(sa.false())) as result:
            names = list(result.keys())
            if self._dialect == "postgresql" and result.cursor is not None:
                reflected = postgres_columns(result.cursor.description)
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise SourceError(f"{self._label}: {self._place} has the column {repeated!r} more than once; rename one")
        return reflected or [SqlColumn(name, pa.null()) for name in names]

    def _reflected(self, connection: sa.Connection) -> list[SqlColumn]:
        table = self._table()
        found = sa.inspect(connection).get_columns(table.name, schema=table.schema)
        return [reflected_column(column["name"], column["type"], self._dialect) for column in found]

    def _reflected_query(self, connection: sa.Connection) -> list[SqlColumn]:
        """Return the columns of a query: SQLite knows their types once the query is a view."""
        connection.exec_driver_sql("DROP VIEW IF EXISTS temp.featurestore_source")
        connection.exec_driver_sql(f"CREATE TEMP VIEW featurestore_source AS {_trimmed(self._source.query)}")
        found = sa.inspect(connection).get_columns("featurestore_source", schema="temp")
        return [reflected_column(column["name"], column["type"], self._dialect) for column in found]

    def _bounds(self, span: Span) -> tuple[datetime | None, datetime | None]:
        """Return the range to ask for; databases that are not known well are asked for a day more on either side."""
        slack = timedelta(0) if self._dialect == "postgresql" else timedelta(days=1)
        extra = slack // timedelta(microseconds=1)
        start = None if span.start is None else span.start - extra
        end = None if span.end is None else span.end + extra
        # Past the years 1 to 9999 there is no such time to ask for.
        low = None if start is None or not _FIRST <= start <= _LAST else from_micros(start)
        high = None if end is None or not _FIRST <= end <= _LAST else from_micros(end)
        return low, high

    def _batch(self, rows: Sequence[Sequence[Any]], columns: Sequence[SqlColumn]) -> pa.RecordBatch:
        arrays = []
        for column, values in zip(columns, zip(*rows, strict=True), strict=True):
            try:
                arrays.append(to_array(values, column.arrow))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise SourceError(
                    f"{self._label}: the column {column.name!r} of {self._place} holds a value that is not of its "
                    f"type, {column.arrow}: {error}"
                ) from error
        return pa.RecordBatch.from_arrays(arrays, [column.name for column in columns])

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        """Give the reader's connection; what goes wrong becomes our error, and the next call begins anew."""
        connection = self._held
        keep = False
        try:
            if connection is None:
                connection = self._open()
                self._begin(connection)
            yield connection
            keep = self._dialect in _ONE_STATE
        except GeneratorExit:  # whoever reads has seen enough
            keep = self._dialect in _ONE_STATE
            raise
        except (NoSuchTableError, DBAPIError) as error:
            raise self._error(error) from error
        except (SQLAlchemyError, TypeError, ValueError) as error:  # a driver's value that SQLAlchemy cannot take
            raise SourceError(f"{self._label}: {self._place} cannot be read: {self._detail(error)}") from error
        finally:
            keep = keep and connection is not None and not connection.closed
            self._held = connection if keep else None
            if connection is not None and not keep:
                connection.close()

    def _open(self) -> sa.Connection:
        try:
            return self._engine.connect()
        except (SQLAlchemyError, OSError) as error:
            url = self._engine.url.render_as_string(hide_password=True)
            raise SourceError(
                f"{self._label}: cannot connect to {url}: {self._detail(error)}; check connections."
                f"{self._source.connection} in feature_store.yaml, and that the database runs"
            ) from None

    def _begin(self, connection: sa.Connection) -> None:
        """Begin the transaction that the reader sees the database through."""
        if self._dialect in {"mysql", "mariadb"}:
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        if self._dialect != "postgresql":
            return
        connection.execution_options(postgresql_readonly=True)
        tables = self._read_tables(connection)
        connection.rollback()
        connection.execution_options(isolation_level="REPEATABLE READ")
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        if tables:
            # Before the first snapshot: one from before another's TRUNCATE finds the table empty.
            connection.execute(sa.text(_escaped(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")))

    def _read_tables(self, connection: sa.Connection) -> list[str]:
        """Return the tables that PostgreSQL reads for the source, quoted: those that planning it locks."""
        origin = self._postgres_name if self._source.table else f"({_trimmed(self._source.query)}) AS source"
        connection.execute(sa.text(_escaped(f"EXPLAIN SELECT * FROM {origin}")))  # noqa: S608  (quoted, or the user's)
        return list(connection.execute(sa.text(_LOCKED)).scalars())

    def _error(self, error: NoSuchTableError | DBAPIError) -> SourceError:
        state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
        if self._source.table and (state in _NO_TABLE or isinstance(error, NoSuchTableError)):
            return SourceError(f"{self._label}: there is no table {self._source.table!r}{self._near()}")
        detail = self._detail(error)
        if state == _NO_RIGHT:
            user = self._engine.url.username
            return SourceError(
                f"{self._label}: {self._place} may not be read by {user!r}: {detail}; GRANT SELECT on it"
            )
        return SourceError(f"{self._label}: {self._place} cannot be read: {detail}")

    def _near(self) -> str:
        schema, _, name = self._source.table.rpartition(".")
        with self._engine.connect() as connection:
            inspector = sa.inspect(connection)
            known = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
        return suggest(name, known)

    def _detail(self, error: BaseException) -> str:
        """Return what a driver says, in one line and without the password."""
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        password = self._engine.url.password
        return text.replace(str(password), "***") if password else text


def _within(
    column: sa.ColumnElement[Any], arrow: pa.DataType, bounds: tuple[datetime | None, datetime | None]
) -> sa.ColumnElement[bool]:
    """Return the condition that keeps a range and what has no time; the bare column, so that an index serves."""
    conditions = []
    for bound, is_start in zip(bounds, (True, False), strict=True):
        value = None if bound is None else _parameter(bound, arrow, up=not is_start)
        if value is not None:
            conditions.append(column >= value if is_start else column < value)
    return sa.or_(sa.and_(*conditions), column.is_(None)) if conditions else sa.true()


def _parameter(bound: datetime, arrow: pa.DataType, *, up: bool) -> sa.BindParameter[Any] | None:
    """Return a bound in the column's own type; None for a column without times."""
    if pa.types.is_timestamp(arrow):
        zoned = arrow.tz is not None
        return sa.literal(bound if zoned else bound.replace(tzinfo=None), sa.DateTime(timezone=zoned))
    if pa.types.is_date(arrow):
        day = bound.date()
        partial = bound != datetime(day.year, day.month, day.day, tzinfo=UTC)
        if up and partial:
            return None if day == date.max else sa.literal(day + timedelta(days=1), sa.Date())
        return sa.literal(day, sa.Date())
    return None


def _trimmed(query: str) -> str:
    return query.strip().rstrip(";").rstrip()


def _escaped(query: str) -> str:
    """Return a query in which SQLAlchemy finds no parameters of its own."""
    return _COLON.sub(r"\\:", _trimmed(query))
