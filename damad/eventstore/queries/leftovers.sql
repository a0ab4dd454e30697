-- How the tasks ended (or who took them over) whose processes still live. end_fence: NULL if from outside a run.
SELECT t.etl_context_id, t.fence, e.fence AS end_fence, e._created_timestamp AS ended_at
  FROM data_manager.dama_tasks t
    JOIN data_manager.etl_contexts c USING (etl_context_id)
    JOIN data_manager.event_store e ON e.event_id = c.latest_event_id
  WHERE t.etl_context_id = ANY ($1::bigint[])
