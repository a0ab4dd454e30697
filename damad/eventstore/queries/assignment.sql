-- What a runner needs to run a claimed task, and what time it is.
SELECT t.etl_context_id, c.parent_context_id, t.queue, t.worker, t.state, t.fence, t.settings, t.errors, t.crashes,
       t.attempt + CASE WHEN t.resumed THEN 0 ELSE 1 END AS attempt, clock_timestamp() AS at,
       e.event_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.dama_tasks t
    JOIN data_manager.etl_contexts c USING (etl_context_id)
    JOIN data_manager.event_store e ON e.event_id = t.initial_event_id
  WHERE t.etl_context_id = $1
