-- The original's view: a row per context and, for tasks, the columns that its clients read.
CREATE OR REPLACE VIEW data_manager.dama_task_queue AS
  SELECT
      s.etl_context_id,
      s.parent_context_id,
      s.source_id,
      s.etl_status,
      s.initial_event_id,
      s.latest_event_id,
      s.queue       AS task_queue_name,
      s.priority    AS task_priority,
      CASE WHEN s.is_task THEN s.state END AS task_state,
      coalesce((s.settings ->> 'retry_limit')::integer, CASE WHEN s.is_task THEN 2 END) AS task_retry_limit,
      t.errors + t.crashes AS task_retry_count,
      s.run_at      AS task_start_after,
      s.started_at  AS task_started_on,
      s.finished_at AS task_completed_on,
      CASE s.state WHEN 'done' THEN (
        SELECT e.payload FROM data_manager.event_store e WHERE e.event_id = s.latest_event_id AND s.is_task
      ) ELSE s.error END AS task_output
    FROM data_manager.context_states s
      LEFT JOIN data_manager.dama_tasks t USING (etl_context_id);
