-- Seconds until the next tick, or NULL where none comes; and whether one waits for a task to end. $1: but for these
SELECT extract(epoch FROM min(next_tick) - clock_timestamp())::double precision AS seconds,
       coalesce(bool_or(buffered <> '{}'), false) AS waiting
  FROM data_manager.dama_schedules
  WHERE NOT paused AND name <> ALL ($1::text[])
