-- What this host holds: its claimed, running and cancelling tasks, with their leases; what time it is; whether any
-- cancel waits for its context (any_cancel); and, in the first row, what is set for the queues. One row with nothing but
-- the last three if it holds none.
SELECT now.at, now.any_cancel, CASE WHEN row_number() OVER () = 1 THEN now.queues END AS queues, held.*
  FROM (
    SELECT clock_timestamp() AS at, EXISTS (SELECT FROM data_manager.cancel_intents) AS any_cancel,
           (SELECT jsonb_agg(to_jsonb(q)) FROM data_manager.dama_queues q) AS queues
  ) AS now LEFT JOIN (
    SELECT t.etl_context_id, c.version, t.queue, t.state, t.fence, t.attempt, t.errors, t.crashes, t.started_at, t.settings,
           l.holder, coalesce(l.waiting, false) AS waiting, l.until < clock_timestamp() AS lease_over,
           EXISTS (SELECT FROM data_manager.cancel_intents i WHERE i.etl_context_id = t.etl_context_id) AS cancel_wanted,
           (SELECT e.payload FROM data_manager.event_store e
              WHERE e.etl_context_id = t.etl_context_id AND e.fence = t.fence AND e.type = 'dama/task:STARTED'
              ORDER BY e.version DESC LIMIT 1) AS started
      FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
        LEFT JOIN data_manager.leases l ON l.etl_context_id = t.etl_context_id AND l.fence = t.fence
      WHERE t.state IN ('claimed', 'running', 'cancelling')
        AND (t.host_id = $1 OR t.host_id IS NULL)
  ) AS held ON true
