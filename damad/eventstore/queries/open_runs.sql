-- The tasks that a schedule made and that have not ended.
SELECT etl_context_id, state
  FROM data_manager.dama_tasks
  WHERE schedule = $1 AND state NOT IN ('done', 'failed', 'cancelled')
  ORDER BY etl_context_id
