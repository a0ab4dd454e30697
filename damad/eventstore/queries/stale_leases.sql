-- Leases of this host that ran out a minute ago and more. $1: this host
SELECT l.etl_context_id, l.fence, l.holder, l.until
  FROM data_manager.leases l
    JOIN data_manager.dama_tasks t USING (etl_context_id)
  WHERE t.host_id = $1 AND l.until < clock_timestamp() - interval '1 minute'
  ORDER BY l.until
