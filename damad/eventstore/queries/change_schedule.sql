-- A schedule as it is from now on; the values are in the order of add_schedule.sql.
UPDATE data_manager.dama_schedules
  SET cron = $2, zone = $3, worker = $4, payload = $5, overlap = $6, missed = $7, missed_within = $8, jitter = $9,
      paused = $10, settings = $11, source_id = $12, meta = $13, next_tick = $14
  WHERE name = $1
  RETURNING *, clock_timestamp() AS at
