-- Seconds until the next task's time comes, to begin or to go on, or the time by which one is to have begun; NULL where
-- none waits for any. One whose time has come waits for a slot, and a slot that gets free is announced. A loose index
-- scan, as in queues_with_work.sql; and statement_timestamp, for an index is not searched for what may change meanwhile.
-- $1: this host · $2: when it looked at what is late and at what waits: whose time came after that was not seen, and is due
WITH RECURSIVE waiting AS (
  (SELECT queue FROM data_manager.dama_tasks WHERE state IN ('scheduled', 'retrying') ORDER BY queue LIMIT 1)
  UNION ALL
  SELECT (SELECT t.queue FROM data_manager.dama_tasks t
            WHERE t.state IN ('scheduled', 'retrying') AND t.queue > waiting.queue ORDER BY t.queue LIMIT 1)
    FROM waiting WHERE waiting.queue IS NOT NULL
)
SELECT extract(epoch FROM least(min(first.run_at), (
    SELECT min(t.start_by) FROM data_manager.dama_tasks t
      WHERE t.start_by > $2 AND t.state IN ('queued', 'scheduled')
  )) - clock_timestamp())::double precision AS seconds
  FROM (
    SELECT due.run_at
      FROM waiting, LATERAL (
        SELECT t.run_at FROM data_manager.dama_tasks t
          WHERE t.state IN ('scheduled', 'retrying') AND t.queue = waiting.queue AND t.run_at > statement_timestamp()
            AND (t.home_host_id IS NULL OR t.home_host_id = $1)
          ORDER BY t.run_at
          LIMIT 1
      ) AS due
    UNION ALL
    (SELECT t.run_at FROM data_manager.dama_tasks t
       WHERE t.state = 'waiting' AND t.run_at > $2
         AND (t.home_host_id IS NULL OR t.home_host_id = $1)
       ORDER BY t.run_at
       LIMIT 1)
  ) AS first
