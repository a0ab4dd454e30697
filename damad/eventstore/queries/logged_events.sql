-- The events of a range of contexts with their fences, in order. $1: after this id · $2: up to this one
SELECT event_id, etl_context_id, version, type, payload, meta, fence, _created_timestamp
  FROM data_manager.event_store
  WHERE etl_context_id > $1 AND etl_context_id <= $2
  ORDER BY etl_context_id, version
