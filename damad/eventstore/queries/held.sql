-- What this host holds: its claimed, running and cancelling tasks, with their leases; what time it is, when this is asked; whether
-- any cancel waits for its context (any_cancel), or any task anywhere did not begin by its start_by until then (any_late), or
-- waits (any_waiting); and, in the first row, what is set for the queues. One row with nothing but the last five if it holds
-- none.
-- beaten_at: when a worker that promised to beat was heard of last, if only by an event of its run.
SELECT now.at, now.any_cancel, now.any_late, now.any_waiting,
       CASE WHEN row_number() OVER () = 1 THEN now.queues END AS queues, held.*
  FROM (
    SELECT statement_timestamp() AS at, EXISTS (SELECT FROM data_manager.cancel_intents) AS any_cancel,
           EXISTS (SELECT FROM data_manager.dama_tasks t
                     WHERE t.start_by <= statement_timestamp() AND t.state IN ('queued', 'scheduled')) AS any_late,
           EXISTS (SELECT FROM data_manager.dama_tasks t WHERE t.state = 'waiting') AS any_waiting,
           (SELECT jsonb_agg(to_jsonb(q)) FROM data_manager.dama_queues q) AS queues
  ) AS now LEFT JOIN (
    SELECT t.etl_context_id, c.version, t.queue, t.state, t.fence, t.attempt, t.errors, t.crashes, t.started_at, t.settings,
           l.holder, coalesce(l.waiting, false) AS waiting, l.until < clock_timestamp() AS lease_over,
           EXISTS (SELECT FROM data_manager.cancel_intents i WHERE i.etl_context_id = t.etl_context_id) AS cancel_wanted,
           CASE t.state WHEN 'cancelling' THEN coalesce(
             (SELECT e.payload -> 'terminate' = 'true' FROM data_manager.event_store e
                WHERE e.etl_context_id = t.etl_context_id AND e.type = 'dama/task:CANCEL_REQUESTED'
                ORDER BY e.version DESC LIMIT 1), false) ELSE false END AS terminate,
           (SELECT e.payload FROM data_manager.event_store e
              WHERE e.etl_context_id = t.etl_context_id AND e.fence = t.fence AND e.type = 'dama/task:STARTED'
              ORDER BY e.version DESC LIMIT 1) AS started,
           CASE WHEN t.settings ->> 'heartbeat' IS NOT NULL THEN greatest(l.beat_at, (
             SELECT e._created_timestamp FROM data_manager.event_store e
               WHERE e.etl_context_id = t.etl_context_id AND e.fence = t.fence
               ORDER BY e.version DESC LIMIT 1
           )) END AS beaten_at
      FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
        LEFT JOIN data_manager.leases l ON l.etl_context_id = t.etl_context_id AND l.fence = t.fence
      WHERE t.state IN ('claimed', 'running', 'cancelling')
        AND (t.host_id = $1 OR t.host_id IS NULL)
  ) AS held ON true
