-- The first archived event that is not in the log as it was, where its context is there, or whose id or event_uuid
-- another has. $1: an array of them as JSON · $2: those of their contexts that are there
SELECT a.event_id, a.etl_context_id
  FROM jsonb_to_recordset($1::text::jsonb) AS a (event_id bigint, etl_context_id bigint, version bigint, event_uuid uuid)
  WHERE CASE
    WHEN a.etl_context_id = ANY ($2::bigint[]) THEN NOT EXISTS (
      SELECT FROM data_manager.event_store e
        WHERE e.event_id = a.event_id AND e.etl_context_id = a.etl_context_id AND e.version = a.version
          AND e.event_uuid = a.event_uuid
    )
    ELSE EXISTS (SELECT FROM data_manager.event_store e WHERE e.event_id = a.event_id)
      OR EXISTS (SELECT FROM data_manager.event_store e WHERE e.event_uuid = a.event_uuid)
  END
  ORDER BY a.event_id
  LIMIT 1
