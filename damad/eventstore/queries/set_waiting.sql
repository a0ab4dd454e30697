-- The attempt waits for others (its slot is free), or goes on. Wakes the schedulers either way. Who waits need not beat,
-- and begins anew with it afterwards.
WITH changed AS (
  UPDATE data_manager.leases SET waiting = $3, beat_at = clock_timestamp() WHERE etl_context_id = $1 AND fence = $2 RETURNING 1
)
SELECT pg_notify('DAMAD_TASK', '') FROM changed
