-- A state per context, as the API and the command line show it: the projection, and what only the clock
-- decides (a scheduled task whose time has come is queued).
CREATE OR REPLACE VIEW data_manager.context_states AS
  SELECT
      c.etl_context_id,
      c.parent_context_id,
      c.source_id,
      c.etl_status,
      CASE WHEN t.state = 'scheduled' AND t.run_at <= clock_timestamp() THEN 'queued'
           ELSE coalesce(t.state, lower(c.etl_status), 'open') END AS state,
      c.version,
      c.initial_event_id,
      c.latest_event_id,
      c._created_timestamp AS created_at,
      c._modified_timestamp AS updated_at,
      t.etl_context_id IS NOT NULL AS is_task,
      t.worker,
      t.queue,
      t.priority,
      t.attempt,
      t.fence,
      t.run_at,
      t.started_at,
      t.finished_at,
      coalesce(t.host_id, t.home_host_id) AS host_id,
      t.pid,
      t.progress,
      t.error,
      t.schedule,
      t.settings
    FROM data_manager.etl_contexts c
      LEFT JOIN data_manager.dama_tasks t USING (etl_context_id);
