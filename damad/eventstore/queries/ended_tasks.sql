-- The tasks in one of some states ($1), of a queue ($2) and with a text in their error's message ($3), where these are not
-- NULL: so many ($5) after an id ($4), in the order of their ids.
SELECT t.etl_context_id
  FROM data_manager.dama_tasks t
  WHERE t.state = ANY ($1::text[])
    AND ($2::text IS NULL OR t.queue = $2)
    AND ($3::text IS NULL OR strpos(t.error ->> 'message', $3) > 0)
    AND t.etl_context_id > $4
  ORDER BY t.etl_context_id
  LIMIT $5
