-- The tasks in one of some states ($1), of a queue ($2) if it is not NULL, by what they failed of: its kind and the first
-- line of its message. How many, and the newest of them; the most first, so many ($3) at most.
SELECT t.error ->> 'kind' AS kind, split_part(t.error ->> 'message', E'\n', 1) AS message, count(*) AS tasks,
       max(t.etl_context_id) AS newest
  FROM data_manager.dama_tasks t
  WHERE t.state = ANY ($1::text[]) AND ($2::text IS NULL OR t.queue = $2) AND t.error IS NOT NULL
  GROUP BY 1, 2
  ORDER BY tasks DESC, newest DESC
  LIMIT $3
