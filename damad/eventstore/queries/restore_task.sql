-- The row of a task as the fold says; the values are in the order of lifecycle.Task's fields.
INSERT INTO data_manager.dama_tasks (
    etl_context_id, worker, queue, priority, settings, idempotency_key, state, initial_event_id, run_at, home_host_id,
    host_id, fence, attempt, pid, errors, crashes, resumed, started_at, finished_at, progress, error,
    schedule, waits_for, start_by, singleton_key
  )
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)
  ON CONFLICT (etl_context_id) DO UPDATE SET
    worker = excluded.worker, queue = excluded.queue, priority = excluded.priority, settings = excluded.settings,
    idempotency_key = excluded.idempotency_key, state = excluded.state,
    initial_event_id = excluded.initial_event_id, run_at = excluded.run_at, home_host_id = excluded.home_host_id,
    host_id = excluded.host_id, fence = excluded.fence, attempt = excluded.attempt, pid = excluded.pid,
    errors = excluded.errors, crashes = excluded.crashes, resumed = excluded.resumed,
    started_at = excluded.started_at, finished_at = excluded.finished_at, progress = excluded.progress,
    error = excluded.error, schedule = excluded.schedule, waits_for = excluded.waits_for,
    start_by = excluded.start_by, singleton_key = excluded.singleton_key
