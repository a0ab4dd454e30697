-- The first event of a context whose type ends in :FINAL or :ERROR, as the original asks for it.
SELECT event_id, etl_context_id, version, event_uuid, type, payload, meta, error, _created_timestamp
  FROM data_manager.event_store
  WHERE etl_context_id = $1 AND (type LIKE '%:FINAL' OR type LIKE '%:ERROR')
  ORDER BY version
  LIMIT 1
