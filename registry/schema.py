"""The tables of the registry, in SQL that SQLite and PostgreSQL both take. Times are microseconds since the epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text, UniqueConstraint

SCHEMA_VERSION = 3
"""Raised with every change of these tables; a registry with a greater number is refused."""
MIGRATED_FROM = 2
"""The oldest version that is brought to this one when it is opened: all that it lacks is whole tables."""

METADATA = MetaData()

SCHEMA = Table(
    "featurestore_schema",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)

PROJECTS = Table(
    "featurestore_projects",
    METADATA,
    Column("name", String, primary_key=True),
    Column("revision", Integer, nullable=False),
)

IDENTITIES = Table(
    "featurestore_identities",  # a project without one was made before there were any
    METADATA,
    Column("project", String, primary_key=True),
    Column("identity", String, nullable=False),
)

VERSIONS = Table(
    "featurestore_versions",  # rows are written once and never changed
    METADATA,
    Column("project", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("fingerprint", String, nullable=False),
    Column("spec", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

MEMBERS = Table(
    "featurestore_members",  # the version of each object in the revisions since <= revision < until (null: still)
    METADATA,
    Column("project", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("since", Integer, primary_key=True, autoincrement=False),
    Column("until", Integer),
    Column("version", Integer, nullable=False),
)

APPLIES = Table(
    "featurestore_applies",
    METADATA,
    Column("project", String, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("who", String, nullable=False),
    Column("summary", Text, nullable=False),
)

CUTS = Table(
    "featurestore_cuts",
    METADATA,
    Column("project", String, primary_key=True),
    Column("view", String, primary_key=True),
    Column("rows", String, primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("arrival", BigInteger, nullable=False),
)

JOBS = Table(
    "featurestore_jobs",  # numbers are per log, whichever project asks: two projects may share a log
    METADATA,
    Column("log", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("project", String, nullable=False),
    Column("view", String, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger, nullable=False),
    Column("base_version", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("source_version", Text),
)

LEASES = Table(
    "featurestore_leases",  # one row per log; it stays when the lease is given back, so that tokens only rise
    METADATA,
    Column("log", String, primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("host", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("process", String, nullable=False),
    Column("expires", BigInteger, nullable=False),
)

TOKENS = Table(
    "featurestore_tokens",  # the secret itself stands nowhere
    METADATA,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("name", String, nullable=False),
    Column("name_in_use", String),  # the name while no other token may have it, else null
    Column("hash", String, nullable=False, unique=True),
    Column("scopes", String, nullable=False),
    Column("rate", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    UniqueConstraint("project", "name_in_use"),
)
