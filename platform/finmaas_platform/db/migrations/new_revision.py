"""Writes the next migration from the difference between `versions/` and the row modules; for developers.

    python -m finmaas_platform.db.migrations.new_revision 0002 "add quotas"

Read what it wrote, then raise HEAD in schema_version.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command

from finmaas_platform.db.base import make_engine
from finmaas_platform.db.migrations.schema_version import make_config


def write_revision(revision: str, message: str) -> None:
    """Writes `versions/<revision>_<message>.py`."""
    with TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{Path(folder) / 'scratch.db'}")
        config = make_config()
        config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            command.revision(config, message, autogenerate=True, rev_id=revision)
        engine.dispose()


if __name__ == "__main__":
    write_revision(sys.argv[1], sys.argv[2])
