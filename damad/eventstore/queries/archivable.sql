-- The contexts of whole ended trees, parents before their children. $1: outcomes of the root, NULL: any · $2: its queue,
-- NULL: any · $3: seconds since the last event of each context in it · $4: trees at most, NULL: all, the oldest first
WITH RECURSIVE tree AS (
  SELECT s.etl_context_id AS id, s.etl_context_id AS root, 0 AS depth
    FROM data_manager.context_states s
    WHERE s.parent_context_id IS NULL
      AND s.state = ANY (coalesce($1::text[], '{done,failed,cancelled}'))
      AND ($2::text IS NULL OR s.queue = $2)
  UNION ALL
  SELECT c.etl_context_id, t.root, t.depth + 1
    FROM tree t JOIN data_manager.etl_contexts c ON c.parent_context_id = t.id
), whole AS (
  SELECT t.root
    FROM tree t
      JOIN data_manager.context_states s ON s.etl_context_id = t.id
      JOIN data_manager.etl_contexts c ON c.etl_context_id = t.id
    GROUP BY t.root
    HAVING bool_and(
      s.state IN ('done', 'failed', 'cancelled')
      AND c._modified_timestamp <= clock_timestamp() - make_interval(secs => $3::double precision)
      AND c.latest_event_id < (SELECT max(e.event_id) FROM data_manager.event_store e)
      -- What the original wrote against the rules could not be put back.
      AND NOT EXISTS (SELECT FROM data_manager.event_store e WHERE e.etl_context_id = t.id AND e.legacy)
    )
    ORDER BY t.root
    LIMIT $4::bigint
)
SELECT t.root, c.etl_context_id, c.version
  FROM whole JOIN tree t USING (root) JOIN data_manager.etl_contexts c ON c.etl_context_id = t.id
  ORDER BY t.root, t.depth, t.id
