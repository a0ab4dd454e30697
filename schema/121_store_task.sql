-- Writes an evolved task back over its row.
CREATE OR REPLACE FUNCTION data_manager.store_task(task data_manager.dama_tasks)
  RETURNS void
  LANGUAGE sql
  AS $$
    UPDATE data_manager.dama_tasks
      SET state = task.state, run_at = task.run_at, host_id = task.host_id, fence = task.fence,
          attempt = task.attempt, pid = task.pid, errors = task.errors, crashes = task.crashes,
          resumed = task.resumed, started_at = task.started_at, finished_at = task.finished_at,
          progress = task.progress, error = task.error
      WHERE etl_context_id = task.etl_context_id
  $$;
