-- Tasks of shared queues whose lease ran out on another host. $1: the queues · $2: this host
SELECT t.etl_context_id, c.version, t.queue, t.state, t.fence, t.attempt, t.errors, t.crashes, t.started_at, t.settings,
       l.holder, l.waiting, true AS lease_over, NULL::jsonb AS started, NULL::timestamptz AS beaten_at,
       EXISTS (SELECT FROM data_manager.cancel_intents i WHERE i.etl_context_id = t.etl_context_id) AS cancel_wanted,
       false AS terminate
  FROM data_manager.leases l
    JOIN data_manager.dama_tasks t ON t.etl_context_id = l.etl_context_id AND t.fence = l.fence
    JOIN data_manager.etl_contexts c ON c.etl_context_id = t.etl_context_id
  WHERE l.until < clock_timestamp()
    AND t.state IN ('claimed', 'running', 'cancelling')
    AND t.queue = ANY ($1)
    AND t.host_id <> $2
