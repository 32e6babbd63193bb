"""How the schema came to be what it is: Alembic migrations, and the check that a database has the right one."""
