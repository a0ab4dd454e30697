-- The tasks below a context that may run on this host ($2) now, in the order in which they are claimed, each with what
-- it weighs.
SELECT t.queue, t.etl_context_id, data_manager.weight_of(t.settings) AS weight
  FROM data_manager.etl_context_line($1) AS line
    JOIN data_manager.dama_tasks t USING (etl_context_id)
  WHERE line.depth > 0
    AND (t.state = 'queued' OR t.state IN ('scheduled', 'retrying') AND t.run_at <= clock_timestamp())
    AND (t.home_host_id IS NULL OR t.home_host_id = $2)
    AND (t.start_by IS NULL OR t.start_by > clock_timestamp())
    AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
  ORDER BY t.priority DESC, t.initial_event_id
