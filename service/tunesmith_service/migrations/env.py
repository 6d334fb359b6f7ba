"""What Alembic runs around the migrations: the connection is given by `migrate.upgrade`."""

from alembic import context

from tunesmith_service.notice_tables import deliveries

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=deliveries.metadata,
    render_as_batch=True,  # SQLite alters a table by rebuilding it
    transactional_ddl=True,  # ours is the transaction: all of a migration or nothing
)
context.run_migrations()
