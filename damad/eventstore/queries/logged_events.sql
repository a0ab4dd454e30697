-- All events of contexts with their fences, context by context, in order. $1: of these contexts
-- No task settings of the original: what it queued is no task here (schema/056_original_events.sql).
SELECT e.event_id, e.etl_context_id, e.version, e.type, e.payload,
       CASE WHEN e.event_id <= o.up_to_event_id AND jsonb_typeof(e.meta) = 'object'
            THEN e.meta - '__dama_task_manager__' ELSE e.meta END AS meta,
       e.fence, e.legacy, e._created_timestamp
  FROM data_manager.event_store e
    LEFT JOIN (SELECT max(up_to_event_id) AS up_to_event_id FROM data_manager.original_events) AS o ON true
  WHERE e.etl_context_id = ANY ($1::bigint[])
  ORDER BY e.etl_context_id, e.version
