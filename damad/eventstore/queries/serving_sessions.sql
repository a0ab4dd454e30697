-- Daemons that serve this database with a schema older than version $2, oldest first. $1: the key that each of them holds
SELECT l.objid::bigint AS version, a.pid, a.backend_start, coalesce(host(a.client_addr), 'the server itself') AS client
  FROM pg_locks l
    JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'advisory'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid::bigint = $1
    AND l.objsubid = 2
    AND l.objid::bigint < $2
    AND l.granted
    AND l.pid <> pg_backend_pid()
  ORDER BY l.objid, a.backend_start
