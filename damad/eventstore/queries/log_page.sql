-- The whole log in the order of contexts and versions, for the fold that verifies it. $1, $2: after this place · $3: at most
SELECT event_id, etl_context_id, version, event_uuid, type, payload, meta, error, fence, _created_timestamp
  FROM data_manager.event_store
  WHERE (etl_context_id, version) > ($1, $2)
  ORDER BY etl_context_id, version
  LIMIT $3
