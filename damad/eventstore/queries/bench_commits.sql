-- The transactions of the database $1 so far.
SELECT xact_commit + xact_rollback AS transactions FROM pg_stat_database WHERE datname = $1
