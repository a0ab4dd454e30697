-- A new schedule, or no row where one of that name is there already.
INSERT INTO data_manager.dama_schedules (
    name, cron, zone, worker, payload, overlap, missed, missed_within, jitter, paused, settings, source_id, meta, next_tick
  )
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
  ON CONFLICT (name) DO NOTHING
  RETURNING *, clock_timestamp() AS at
