-- The events that ended the contexts named, of those that ended.
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.etl_contexts c
    JOIN data_manager.event_store e ON e.event_id = c.latest_event_id
  WHERE c.etl_context_id = ANY ($1::bigint[])
    AND (e.type LIKE '%:FINAL' OR e.type IN ('dama/task:FAILED', 'dama/task:CANCELLED'))
