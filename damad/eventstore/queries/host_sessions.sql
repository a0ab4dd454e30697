-- The sessions by which a daemon serves this database as the host $1. $2: the seed of the key
SELECT a.pid, coalesce(host(a.client_addr), 'the server itself') AS client
  FROM pg_locks l
    JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'advisory'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.objsubid = 1
    AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended($1::text, $2::bigint)
    AND l.granted
    AND l.pid <> pg_backend_pid()
