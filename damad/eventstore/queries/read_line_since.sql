-- Events of a context, its ancestors and its descendants that a reader has not seen. By versions and not by event_ids,
-- which commit out of order between contexts; a part of the answer holds the lowest versions of each context.
-- $2, $3: the version of each context that was seen last · $4: types, or NULL for all · $5: at most
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.etl_context_line($1) AS line
    JOIN data_manager.etl_contexts c USING (etl_context_id)
    LEFT JOIN unnest($2::bigint[], $3::bigint[]) AS seen (etl_context_id, version) USING (etl_context_id)
    CROSS JOIN LATERAL (
      SELECT * FROM data_manager.event_store unseen
        WHERE unseen.etl_context_id = c.etl_context_id AND unseen.version > coalesce(seen.version, 0)
        OFFSET 0  -- context by context, as in read_tree.sql
    ) AS e
  WHERE c.version > coalesce(seen.version, 0) AND ($4::text[] IS NULL OR e.type = ANY ($4))
  ORDER BY e.event_id
  LIMIT $5
