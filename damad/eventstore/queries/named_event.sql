-- The event of one type whose payload carries a name: how a durable call finds what it recorded before.
SELECT event_id, etl_context_id, version, event_uuid, type, payload, meta, error, _created_timestamp
  FROM data_manager.event_store
  WHERE etl_context_id = $1 AND type = $2 AND payload ->> 'name' = $3
  ORDER BY version
  LIMIT 1
