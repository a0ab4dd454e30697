-- Says for as long as this session lasts that a daemon serves with schema version $2. $1: the key. Waits for a migration.
SELECT pg_advisory_lock_shared($1::integer, $2::integer)
