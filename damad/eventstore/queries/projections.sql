-- The projections of contexts as they stand, to be compared with the folds of their events. $1: of these contexts
SELECT c.etl_context_id, c.etl_status, c.initial_event_id, c.latest_event_id, c.version,
       t.worker, t.queue, t.priority, t.settings, t.idempotency_key, t.state, t.initial_event_id AS task_initial_event_id,
       t.run_at, t.home_host_id, t.host_id, t.fence, t.attempt, t.pid, t.errors, t.crashes, t.resumed,
       t.started_at, t.finished_at, t.progress, t.error, t.schedule, t.waits_for, t.start_by, t.singleton_key
  FROM data_manager.etl_contexts c
    LEFT JOIN data_manager.dama_tasks t USING (etl_context_id)
  WHERE c.etl_context_id = ANY ($1::bigint[])
  ORDER BY c.etl_context_id
