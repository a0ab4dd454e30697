-- Seconds until the next task's time comes, or NULL where none waits for it. One whose time has come waits for a
-- slot, and a slot that gets free is announced. $1: this host
SELECT extract(epoch FROM min(run_at) - clock_timestamp())::double precision AS seconds
  FROM data_manager.dama_tasks
  WHERE state IN ('scheduled', 'retrying') AND run_at > clock_timestamp()
    AND (home_host_id IS NULL OR home_host_id = $1)
