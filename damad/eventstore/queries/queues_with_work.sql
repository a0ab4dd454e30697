-- The queues in which something may run now. Loose index scans: their cost grows with the number of queues, not with
-- the number of tasks. Each with what is set for it in the database, the seconds that its rate makes it wait, and those until
-- its key_rate lets the next task of a key begin of which none may now.
WITH RECURSIVE queued AS (
  (SELECT queue FROM data_manager.dama_tasks WHERE state = 'queued' ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT t.queue FROM data_manager.dama_tasks t
            WHERE t.state = 'queued' AND t.queue > queued.queue ORDER BY t.queue LIMIT 1)
    FROM queued WHERE queued.queue IS NOT NULL
), waiting AS (
  (SELECT queue FROM data_manager.dama_tasks WHERE state IN ('scheduled', 'retrying') ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT t.queue FROM data_manager.dama_tasks t
            WHERE t.state IN ('scheduled', 'retrying') AND t.queue > waiting.queue ORDER BY t.queue LIMIT 1)
    FROM waiting WHERE waiting.queue IS NOT NULL
)
SELECT work.queue, to_jsonb(q) AS stored,
       CASE WHEN q.rate IS NOT NULL THEN data_manager.next_token_in(q, clock_timestamp()) END AS wait,
       CASE WHEN q.key_rate IS NOT NULL THEN data_manager.next_key_token_in(q, clock_timestamp()) END AS key_wait
  FROM (
    SELECT queue FROM queued WHERE queue IS NOT NULL
    UNION
    SELECT queue FROM waiting
      WHERE (SELECT min(t.run_at) FROM data_manager.dama_tasks t
               WHERE t.state IN ('scheduled', 'retrying') AND t.queue = waiting.queue) <= clock_timestamp()
  ) AS work LEFT JOIN data_manager.dama_queues q ON q.name = work.queue
