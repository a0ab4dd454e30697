-- Versions older than $2 that some daemon still serves. While this transaction lasts no other can begin to. $1: the key
SELECT version
  FROM generate_series(1, $2::integer - 1) AS version
  WHERE NOT pg_try_advisory_xact_lock($1::integer, version)
