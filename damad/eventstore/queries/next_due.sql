-- Seconds until the next task that waits for its time, or NULL where none does. $1: this host
SELECT extract(epoch FROM min(run_at) - clock_timestamp())::double precision AS seconds
  FROM data_manager.dama_tasks
  WHERE state IN ('scheduled', 'retrying') AND (home_host_id IS NULL OR home_host_id = $1)
