"""Which schema a database has, and bringing a database to ours.

An empty database is filled at the first start. One of another release is never changed by starting: that is
WrongSchema, and the operator decides. Alembic is imported only when it has something to do: a start must be quick.

    python -m finmaas_platform.db.migrations.schema_version     # upgrades the database of FINMAAS_HOME
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, inspect, text

from finmaas_core.errors import WrongSchema
from finmaas_core.settings import load_settings
from finmaas_platform.db.base import make_engine

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = max(path.name[:4] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))
"""The newest revision: files of `versions/` begin with their number. A test asks Alembic for the same."""

VERSION_TABLE = "alembic_version"
_UPGRADE = "python -m finmaas_platform.db.migrations.schema_version"
_LOCK_ID = 7_046_611_233  # any number that is ours: PostgreSQL's advisory lock around migrations


def ensure_schema(engine: Engine) -> None:
    """Fills an empty database; WrongSchema for one that another release made, or that is not finmaas's."""
    revision = find_revision(engine)
    if revision == HEAD:
        return
    if revision is None:
        if tables := inspect(engine).get_table_names():
            raise WrongSchema(
                f"the database {_show(engine)} holds tables that finmaas did not make "
                f"({', '.join(sorted(tables)[:3])}); give finmaas a database of its own in FINMAAS_DATABASE_URL"
            )
        upgrade(engine)
        return
    if revision in _known_revisions():
        raise WrongSchema(
            f"the database {_show(engine)} has schema {revision}, this release needs {HEAD}; make a backup with "
            f"`finmaas backup`, then run `{_UPGRADE}`"
        )
    raise WrongSchema(
        f"the database {_show(engine)} has schema {revision}, which this release ({HEAD}) does not know; "
        "install the newer release that made it, or restore a backup"
    )


def find_revision(engine: Engine) -> str | None:
    """The revision that the database says it has; None when it has never been filled."""
    with engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
        return revision


def upgrade(engine: Engine) -> None:
    """Brings the database to our schema, once, even when several control planes start at the same moment."""
    from alembic import command

    config = make_config()
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def make_config() -> Config:
    """Alembic's configuration, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(make_config()).walk_revisions()}


def _show(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def main() -> None:
    """Upgrades the database of this installation."""
    engine = make_engine(load_settings().sqlalchemy_url)
    upgrade(engine)
    print(f"{_show(engine)} has schema {HEAD}")


if __name__ == "__main__":
    main()
