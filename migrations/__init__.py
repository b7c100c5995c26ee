"""The warehouse's schema as a chain of Alembic revisions (`versions/`)."""
