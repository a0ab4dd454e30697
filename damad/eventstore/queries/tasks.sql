-- A page of tasks, newest first. Every filter may be NULL · $4: before this id (the cursor) · $5: at most
SELECT *
  FROM data_manager.context_states
  WHERE is_task
    AND ($1::text[] IS NULL OR state = ANY ($1))
    AND ($2::text IS NULL OR queue = $2)
    AND ($3::bigint IS NULL OR parent_context_id = $3)
    AND ($4::bigint IS NULL OR etl_context_id < $4)
  ORDER BY etl_context_id DESC
  LIMIT $5
