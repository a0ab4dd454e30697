"""The event store: the log in Postgres, and all that speaks SQL. Only these modules import asyncpg."""
