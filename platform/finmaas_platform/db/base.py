"""How the control plane reaches its database: engine, session, column types. Tables live one noun a file beside this.

SQLite (embedded) and PostgreSQL (cluster) run the same code. One session is one unit of work; no network call
happens inside one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Engine, Integer, MetaData, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeDecorator

from finmaas_core.errors import AlreadyExists

BUSY_TIMEOUT_S = 30


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime in Python; SQLite, which has no time zones, holds it as naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone cannot be stored; use the clock port")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# PostgreSQL's plain integer ends at 2 GiB, which a file's size passes.
WideInteger = BigInteger().with_variant(Integer(), "sqlite")
JsonType = JSON().with_variant(JSONB(), "postgresql")


class Base(DeclarativeBase):
    """Declarative base of all rows."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        int: WideInteger,
        dict[str, Any]: JsonType,
        list[Any]: JsonType,
    }


def make_engine(url: str) -> Engine:
    """An engine for a SQLAlchemy URL, with the pragmas that make SQLite safe under several threads and processes."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=10, max_overflow=10, pool_pre_ping=True)
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=20,
        max_overflow=20,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy begins transactions itself (below); the driver must not begin others on its own.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_S}000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin_immediate(connection: Any) -> None:
        # Taking the write lock at once turns "database is locked" in mid-transaction into a short wait at its start.
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


SessionFactory = sessionmaker[Session]


def make_session_factory(engine: Engine) -> SessionFactory:
    """Sessions whose objects stay readable after commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def unit_of_work(sessions: SessionFactory) -> Iterator[Session]:
    """One transaction: commits at the end, rolls back when anything is raised."""
    with sessions() as session, session.begin():
        yield session


def insert_unique(session: Session, row: Base, taken: str) -> None:
    """Inserts a row at once; AlreadyExists, saying `taken`, when a unique constraint forbids it."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        raise AlreadyExists(taken) from error


def insert_missing(session: Session, table: type[Base], values: Sequence[Mapping[str, Any]]) -> None:
    """Inserts the rows that are not there yet; one that a unique constraint knows already stays as it is."""
    if not values:
        return
    is_postgres = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert(table) if is_postgres else sqlite.insert(table)
    session.execute(insert.on_conflict_do_nothing(), values)


@contextmanager
def read_unit(sessions: SessionFactory) -> Iterator[Session]:
    """One transaction that only reads: it waits for no writer, and sees one moment of the database throughout."""
    with sessions() as session, session.begin():
        begin_reading(session)
        yield session


def begin_reading(session: Session) -> None:
    """Begins the session's transaction as a reading one (SQLite: deferred; PostgreSQL: repeatable read)."""
    options = {"sqlite_begin": "DEFERRED"}
    if session.get_bind().dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ"}
    session.connection(execution_options=options)
