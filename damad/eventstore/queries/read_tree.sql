-- Events of a context, its ancestors and its descendants after an event, oldest first. $3: types, or NULL for all
-- Context by context, by its versions (hence the + 0 and OFFSET 0): in the order of ids the first ones of a small tree
-- may come behind all of a large log.
SELECT e.*
  FROM data_manager.etl_context_line($1) AS line
    CROSS JOIN LATERAL (
      SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error,
             e._created_timestamp
        FROM data_manager.event_store e
        WHERE e.etl_context_id = line.etl_context_id AND e.event_id + 0 > $2::bigint
        OFFSET 0
    ) AS e
  WHERE $3::text[] IS NULL OR e.type = ANY ($3)
  ORDER BY e.event_id
  LIMIT $4
