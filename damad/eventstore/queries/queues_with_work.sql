-- The queues in which something may run now. A loose index scan: its cost grows with the number of queues,
-- not with the number of tasks.
WITH RECURSIVE queued AS (
  (SELECT queue FROM data_manager.dama_tasks WHERE state = 'queued' ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT t.queue FROM data_manager.dama_tasks t
            WHERE t.state = 'queued' AND t.queue > queued.queue ORDER BY t.queue LIMIT 1)
    FROM queued WHERE queued.queue IS NOT NULL
), due AS (
  SELECT DISTINCT queue FROM data_manager.dama_tasks
    WHERE state IN ('scheduled', 'retrying') AND run_at <= clock_timestamp()
)
SELECT queue FROM queued WHERE queue IS NOT NULL
UNION
SELECT queue FROM due
