"""Reads Hive through HiveServer2, Spark's or Apache Hive's: the same values, from Thrift's columns to Arrow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import MissingExtraError, SourceError, suggest
from featurestore.materialize.hive_table import HiveColumn, StatementError, arrow_type

_AUTH = {
    "NONE": "PLAIN",  # Hive's own name for SASL without a check
    "PLAIN": "PLAIN",
    "LDAP": "LDAP",
    "NOSASL": "NOSASL",
    "KERBEROS": "GSSAPI",
    "GSSAPI": "GSSAPI",
}
_PASSED_ON = ("user", "password", "database", "timeout", "use_ssl", "ca_cert", "kerberos_service_name")
_SETTINGS = ("host", "port", "auth", *_PASSED_ON)
_ROWS = 16_384
_SPARK_SETTINGS = ("spark.sql.session.timeZone=UTC", "spark.sql.thriftServer.incrementalCollect=true")
_MICROS = "yyyy-MM-dd HH:mm:ss.SSSSSS"
_DIGITS = len("2024-01-01 00:00:00.000000")
_EXCEPTION = re.compile(r"[\w.$]*Exception:\s")
_NUMBERS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}

Mask = npt.NDArray[np.bool_]


class Server2Engine:
    """Runs SQL on a HiveServer2; each statement streams through a session of its own.

    Parameters
    ----------
    label
        What errors about settings name.
    settings
        ``host``, ``port``, ``auth``, ``user``, ``password``, ``database``, ``timeout`` (seconds), ``use_ssl``,
        ``ca_cert`` and ``kerberos_service_name``.
    """

    def __init__(self, label: str, settings: Mapping[str, Any]) -> None:
        for key in settings:
            if key not in _SETTINGS:
                raise SourceError(f"{label}: unknown setting {key!r}{suggest(key, _SETTINGS)}")
        if not settings.get("host"):
            raise SourceError(f"{label}: name the server: host: hive.example.com")
        auth = str(settings.get("auth", "NONE")).upper()
        if auth not in _AUTH:
            raise SourceError(f"{label}.auth: {settings['auth']!r} is not supported{suggest(auth, _AUTH)}")
        self._host, self._port = str(settings["host"]), _port(label, settings.get("port", 10_000))
        self._options = {key: settings[key] for key in _PASSED_ON if key in settings}
        self._options["auth_mechanism"] = _AUTH[auth]
        self._connection: Any = None
        self._is_spark = False

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return all rows of a small answer."""
        with self._cursor() as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor.fetchall()]

    def describe(self, query: str) -> list[tuple[str, str]]:
        """Return the columns of a query; Apache Hive does not say of what type an array's elements are."""
        with self._cursor() as cursor:
            if self._is_spark:
                cursor.execute(f"DESCRIBE QUERY {query}")
                return [(name, kind) for name, kind, _ in cursor.fetchall()]
            cursor.execute(f"SELECT * FROM (\n{query}\n) AS source LIMIT 0")
            return [(column[0].removeprefix("source."), _described(column)) for column in cursor.description]

    def stream(self, columns: Sequence[HiveColumn], rest: str) -> Iterator[pa.RecordBatch]:
        """Yield some thousands of rows at a time; the server, where it is Spark, holds a partition at a time too."""
        names = [column.name for column in columns]
        with self._cursor() as cursor:
            listed = ", ".join(f"{self._select(column)} AS c{place}" for place, column in enumerate(columns))
            cursor.set_arraysize(_ROWS)
            if self._is_spark:  # whose types do not show in what is selected
                cursor.execute(f"DESCRIBE QUERY SELECT {', '.join(column.sql for column in columns)} {rest}")
                _check_types(columns, [row[1] for row in cursor.fetchall()])
            cursor.execute(f"SELECT {listed} {rest}")
            if not self._is_spark:
                _check_types(columns, [_described(column) for column in cursor.description])
            # An empty batch is the end: execute has waited for the rows.
            while (batch := cursor.fetchcbatch()) is not None:
                arrays = [to_arrow(column, got) for column, got in zip(columns, batch.columns, strict=True)]
                yield pa.RecordBatch.from_arrays(arrays, names)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _select(self, column: HiveColumn) -> str:
        """Return a column as SQL; Spark gives times as integers, and arrays as JSON, whose quotes it else omits."""
        if not self._is_spark:
            return column.sql
        if pa.types.is_list(column.arrow):
            return f"to_json({column.sql}, map('timestampFormat', '{_MICROS}'))"
        if pa.types.is_timestamp(column.arrow):
            return f"unix_micros(CAST({column.sql} AS TIMESTAMP))"
        return f"unix_date({column.sql})" if pa.types.is_date(column.arrow) else column.sql

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with self._errors():
            if self._connection is None:
                self._connection = self._connect()
                with closing(self._open()) as cursor:
                    self._is_spark = _is_spark(cursor)
            with closing(self._open()) as cursor:
                if self._is_spark:
                    _configure(cursor)
                yield cursor

    def _connect(self) -> Any:
        from impala.dbapi import connect

        return connect(host=self._host, port=self._port, **self._options)

    def _open(self) -> Any:
        return self._connection.cursor(convert_types=False)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            from impala.error import Error
            from thrift.Thrift import TException
        except ImportError as error:
            raise MissingExtraError.for_package("impyla", "hive") from error
        try:
            yield
        except Error as error:
            raise StatementError(f"HiveServer2 {self._host}:{self._port}: {_reason(str(error))}") from error
        except (TException, OSError, EOFError) as error:
            raise SourceError(
                f"HiveServer2 {self._host}:{self._port} does not answer (auth: {self._options['auth_mechanism']}): "
                f"{_reason(str(error))}; is it running there, and is that the auth it expects, user and password?"
            ) from error


def to_arrow(column: HiveColumn, got: Any) -> pa.Array:
    """Return a column of Thrift's values as the Arrow type of its Hive type.

    Parameters
    ----------
    got
        Has ``values`` and, as bits, ``nulls``; the values behind nulls mean nothing.
    """
    values = got.values
    mask: Mask = np.frombuffer(got.nulls.unpack(), dtype=np.bool_)[: len(values)]
    kind = column.arrow
    if pa.types.is_list(kind):
        lists = [None if null else _elements(value, kind.value_type) for value, null in zip(values, mask, strict=True)]
        return pa.array(lists, kind)
    if pa.types.is_float32(kind):  # a double that was written from the float's shortest digits
        return pa.array(np.asarray(values, dtype=np.float64).astype(np.float32), mask=mask)
    if _is_time(kind) and len(values) and not isinstance(values[int(np.argmin(mask))], str):
        width = pa.int32() if pa.types.is_date32(kind) else pa.int64()
        return _masked(values, mask, width).cast(kind)
    if _is_time(kind):
        return _parsed(_masked(values, mask, pa.string()), kind)
    if pa.types.is_decimal(kind):
        return pa.array([None if null else Decimal(value) for value, null in zip(values, mask, strict=True)], kind)
    return _masked(values, mask, kind)


def _masked(values: Sequence[Any], mask: Mask, kind: pa.DataType) -> pa.Array:
    if not mask.any():
        return pa.array(values, kind)
    return pa.array([None if null else value for value, null in zip(values, mask, strict=True)], kind)


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return times of text as Hive writes it; what is past microseconds is cut off toward the past."""
    if pa.types.is_date(kind):
        return texts.cast(kind)
    return pc.utf8_slice_codeunits(texts, 0, _DIGITS).cast(pa.timestamp("us")).cast(pa.int64()).cast(kind)


def _elements(value: str | bytes, kind: pa.DataType) -> Any:
    """Return the elements of an array that came as JSON, as what Arrow makes of the element type."""
    elements: list[Any] = msgspec.json.decode(value)
    make = _maker(kind)
    made = [None if element is None else make(element) for element in elements]
    return _parsed(pa.array(made, pa.string()), kind) if _is_time(kind) else made


def _maker(kind: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_floating(kind):
        return lambda element: _NUMBERS[element] if isinstance(element, str) else float(element)
    if pa.types.is_binary(kind):
        return lambda element: msgspec.convert(element, bytes)  # base64, as in JSON
    return lambda element: element


def _described(column: Sequence[Any]) -> str:
    """Return a column of a cursor's description the way that DESCRIBE writes its type."""
    kind = str(column[1]).lower()
    return f"decimal({column[4]},{column[5]})" if kind == "decimal" else kind


def _check_types(columns: Sequence[HiveColumn], kinds: Sequence[str]) -> None:
    """Refuse a table whose types have changed since they were asked for: values would be taken for others."""
    for column, kind in zip(columns, kinds, strict=True):
        if arrow_type(kind) != column.arrow and not column.type.startswith(f"{kind}<"):
            raise StatementError(f"the column {column.name!r} is {kind} now, and was {column.type}; read it anew")


def _is_spark(cursor: Any) -> bool:
    """Return whether the server is Spark's: it knows a function that Apache Hive does not."""
    from impala.error import Error

    try:
        _configure(cursor)
        cursor.execute("SELECT unix_micros(TIMESTAMP '1970-01-01 00:00:00')")
        return bool(cursor.fetchall() == [(0,)])
    except Error:
        return False


def _configure(cursor: Any) -> None:
    for setting in _SPARK_SETTINGS:
        cursor.execute(f"SET {setting}")


def _port(label: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{label}.port: {value!r} is not a port") from error


def _reason(message: str) -> str:
    """Return what the innermost of Java's exceptions says, without its name and stack trace."""
    head = re.split(r"\n\s+at |\nCaused by", message)[0]
    said = _EXCEPTION.split(head)[-1].strip()
    return said.splitlines()[0] if said else "no reason was given"
