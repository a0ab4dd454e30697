-- The processes of the tasks that run: what their last STARTED says.
SELECT DISTINCT ON (t.etl_context_id) t.etl_context_id, e.payload
  FROM data_manager.dama_tasks t JOIN data_manager.event_store e USING (etl_context_id)
  WHERE t.state IN ('running', 'cancelling') AND e.type = 'dama/task:STARTED'
  ORDER BY t.etl_context_id, e.version DESC
