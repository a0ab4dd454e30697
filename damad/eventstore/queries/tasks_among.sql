-- Which of the contexts $1 are tasks. $2: of this queue · $3: of this parent; NULL: of any
SELECT t.etl_context_id
  FROM data_manager.dama_tasks t
    JOIN data_manager.etl_contexts c USING (etl_context_id)
  WHERE t.etl_context_id = ANY ($1::bigint[])
    AND ($2::text IS NULL OR t.queue = $2)
    AND ($3::bigint IS NULL OR c.parent_context_id = $3)
