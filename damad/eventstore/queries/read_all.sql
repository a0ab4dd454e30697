-- Events of all contexts after an event, in the order of their ids. $2: at most
SELECT event_id, etl_context_id, version, event_uuid, type, payload, meta, error, _created_timestamp
  FROM data_manager.event_store
  WHERE event_id > $1
  ORDER BY event_id
  LIMIT $2
