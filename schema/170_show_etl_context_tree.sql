-- The whole tree that a context belongs to: its root, and everything below it, depth first.
-- Nothing keeps a client from making a context its own ancestor, and the original's databases may hold such rows: what
-- goes round in a circle is shown once.
CREATE OR REPLACE FUNCTION data_manager.show_etl_context_tree(id bigint)
  RETURNS TABLE (etl_context_id bigint, parent_context_id bigint, depth integer)
  LANGUAGE sql STABLE
  AS $$
    WITH RECURSIVE up AS (
      SELECT c.etl_context_id, c.parent_context_id, 0 AS height
        FROM data_manager.etl_contexts c WHERE c.etl_context_id = id
      UNION ALL
      SELECT c.etl_context_id, c.parent_context_id, up.height + 1
        FROM data_manager.etl_contexts c JOIN up ON c.etl_context_id = up.parent_context_id
    ) CYCLE etl_context_id SET is_again USING way, root AS (
      SELECT up.etl_context_id, up.parent_context_id FROM up WHERE NOT is_again ORDER BY up.height DESC LIMIT 1
    ), down AS (
      SELECT root.etl_context_id, root.parent_context_id, 0 AS depth FROM root
      UNION ALL
      SELECT c.etl_context_id, c.parent_context_id, down.depth + 1
        FROM data_manager.etl_contexts c JOIN down ON c.parent_context_id = down.etl_context_id
    ) CYCLE etl_context_id SET is_again USING path
    SELECT down.etl_context_id, down.parent_context_id, down.depth FROM down WHERE NOT is_again ORDER BY path
  $$;

-- Ancestors, self and descendants: the line that a context stands in, without its siblings. Each of them once.
CREATE OR REPLACE FUNCTION data_manager.etl_context_line(id bigint)
  RETURNS TABLE (etl_context_id bigint, depth integer)
  LANGUAGE sql STABLE
  AS $$
    WITH RECURSIVE up AS (
      SELECT c.etl_context_id, c.parent_context_id, 0 AS depth
        FROM data_manager.etl_contexts c WHERE c.etl_context_id = id
      UNION ALL
      SELECT c.etl_context_id, c.parent_context_id, up.depth - 1
        FROM data_manager.etl_contexts c JOIN up ON c.etl_context_id = up.parent_context_id
    ) CYCLE etl_context_id SET is_again USING way, down AS (
      SELECT c.etl_context_id, 0 AS depth FROM data_manager.etl_contexts c WHERE c.etl_context_id = id
      UNION ALL
      SELECT c.etl_context_id, down.depth + 1
        FROM data_manager.etl_contexts c JOIN down ON c.parent_context_id = down.etl_context_id
    ) CYCLE etl_context_id SET is_again USING way
    SELECT DISTINCT ON (line.etl_context_id) line.etl_context_id, line.depth
      FROM (
        SELECT down.etl_context_id, down.depth FROM down WHERE NOT down.is_again
        UNION ALL
        SELECT up.etl_context_id, up.depth FROM up WHERE NOT up.is_again AND up.depth < 0
      ) AS line
      ORDER BY line.etl_context_id, line.depth DESC
  $$;
