-- Who holds what an upgrade must change, longest first. $1: the relations' schema
SELECT DISTINCT a.pid, a.application_name, a.state, a.xact_start
  FROM pg_locks l
    JOIN pg_class c ON c.oid = l.relation
    JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND c.relnamespace = to_regnamespace($1)
    AND l.granted
    AND l.pid <> pg_backend_pid()
  ORDER BY a.xact_start
