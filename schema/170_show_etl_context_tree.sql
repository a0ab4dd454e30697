-- The whole tree that a context belongs to: its root, and everything below it, depth first.
CREATE OR REPLACE FUNCTION data_manager.show_etl_context_tree(id bigint)
  RETURNS TABLE (etl_context_id bigint, parent_context_id bigint, depth integer)
  LANGUAGE sql STABLE
  AS $$
    WITH RECURSIVE up AS (
      SELECT c.etl_context_id, c.parent_context_id
        FROM data_manager.etl_contexts c WHERE c.etl_context_id = id
      UNION
      SELECT c.etl_context_id, c.parent_context_id
        FROM data_manager.etl_contexts c JOIN up ON c.etl_context_id = up.parent_context_id
    ), down AS (
      SELECT up.etl_context_id, up.parent_context_id, 0 AS depth, ARRAY[up.etl_context_id] AS path
        FROM up WHERE up.parent_context_id IS NULL
      UNION ALL
      SELECT c.etl_context_id, c.parent_context_id, down.depth + 1, down.path || c.etl_context_id
        FROM data_manager.etl_contexts c JOIN down ON c.parent_context_id = down.etl_context_id
    )
    SELECT down.etl_context_id, down.parent_context_id, down.depth FROM down ORDER BY down.path
  $$;

-- Ancestors, self and descendants: the line that a context stands in, without its siblings.
CREATE OR REPLACE FUNCTION data_manager.etl_context_line(id bigint)
  RETURNS TABLE (etl_context_id bigint, depth integer)
  LANGUAGE sql STABLE
  AS $$
    WITH RECURSIVE up AS (
      SELECT c.etl_context_id, c.parent_context_id, 0 AS depth
        FROM data_manager.etl_contexts c WHERE c.etl_context_id = id
      UNION
      SELECT c.etl_context_id, c.parent_context_id, up.depth - 1
        FROM data_manager.etl_contexts c JOIN up ON c.etl_context_id = up.parent_context_id
    ), down AS (
      SELECT id AS etl_context_id, 0 AS depth
      UNION
      SELECT c.etl_context_id, down.depth + 1
        FROM data_manager.etl_contexts c JOIN down ON c.parent_context_id = down.etl_context_id
    )
    SELECT up.etl_context_id, up.depth FROM up WHERE up.depth < 0
    UNION ALL
    SELECT down.etl_context_id, down.depth FROM down JOIN data_manager.etl_contexts c USING (etl_context_id)
    ORDER BY depth, etl_context_id
  $$;
