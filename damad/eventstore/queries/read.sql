-- Events of one context after a version, in order. $3: types, or NULL for all · $4: at most
SELECT event_id, etl_context_id, version, event_uuid, type, payload, meta, error, _created_timestamp
  FROM data_manager.event_store
  WHERE etl_context_id = $1 AND version > $2 AND ($3::text[] IS NULL OR type = ANY ($3))
  ORDER BY version
  LIMIT $4
