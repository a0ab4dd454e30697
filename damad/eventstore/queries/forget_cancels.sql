-- Forgets the intents that stand in the log by now, or whose task has ended otherwise.
DELETE FROM data_manager.cancel_intents i
  USING data_manager.dama_tasks t
  WHERE t.etl_context_id = i.etl_context_id AND t.state IN ('cancelling', 'done', 'failed', 'cancelled')
