-- Those of some hosts ($1) as which a daemon serves this database. $2: the seed of the key
WITH taken AS MATERIALIZED (
  SELECT l.classid::bigint << 32 | l.objid::bigint AS key
    FROM pg_locks l
    WHERE l.locktype = 'advisory'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.objsubid = 1
      AND l.granted
      AND l.pid <> pg_backend_pid()
)
SELECT h.host_id
  FROM unnest($1::text[]) AS h (host_id)
  WHERE hashtextextended(h.host_id, $2::bigint) IN (SELECT key FROM taken)
