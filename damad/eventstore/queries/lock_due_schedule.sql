-- A schedule that somebody has to look at, for as long as this transaction lasts; no row where another daemon is at it.
SELECT *, clock_timestamp() AS at
  FROM data_manager.dama_schedules
  WHERE name = $1 AND NOT paused AND (next_tick <= clock_timestamp() OR buffered <> '{}')
  FOR UPDATE SKIP LOCKED
