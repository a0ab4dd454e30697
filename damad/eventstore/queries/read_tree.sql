-- Events of a context, its ancestors and its descendants after an event, oldest first. $3: types, or NULL for all
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.etl_context_line($1) AS line
    JOIN data_manager.event_store e USING (etl_context_id)
  WHERE e.event_id > $2 AND ($3::text[] IS NULL OR e.type = ANY ($3))
  ORDER BY e.event_id
  LIMIT $4
