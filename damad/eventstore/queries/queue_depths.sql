-- How many tasks of each queue are in which open state. ready: those that wait for nothing but a slot · oldest_age: seconds
-- since the first of these could have run. Each part by an index that holds only what is open. $1: of this queue, or NULL
SELECT t.queue, t.state, count(*)::integer AS number, count(*)::integer AS ready,
       extract(epoch FROM clock_timestamp() - min(t.run_at))::double precision AS oldest_age
  FROM data_manager.dama_tasks t
  WHERE t.state = 'queued' AND ($1::text IS NULL OR t.queue = $1)
  GROUP BY t.queue, t.state
UNION ALL
SELECT t.queue, t.state, count(*)::integer, count(*) FILTER (WHERE t.run_at <= statement_timestamp())::integer,
       extract(epoch FROM clock_timestamp()
                          - min(t.run_at) FILTER (WHERE t.run_at <= statement_timestamp()))::double precision
  FROM data_manager.dama_tasks t
  WHERE t.state IN ('scheduled', 'retrying') AND ($1::text IS NULL OR t.queue = $1)
  GROUP BY t.queue, t.state
UNION ALL
SELECT t.queue, t.state, count(*)::integer, 0, NULL
  FROM data_manager.dama_tasks t
  WHERE t.state IN ('claimed', 'running', 'cancelling') AND ($1::text IS NULL OR t.queue = $1)
  GROUP BY t.queue, t.state
UNION ALL
SELECT t.queue, t.state, count(*)::integer, 0, NULL
  FROM data_manager.dama_tasks t
  WHERE t.state = 'waiting' AND ($1::text IS NULL OR t.queue = $1)
  GROUP BY t.queue, t.state
