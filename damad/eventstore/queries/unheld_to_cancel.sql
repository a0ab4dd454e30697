-- Tasks that somebody wants cancelled and that nobody holds. They have no process that their host would have to see
-- dead: any daemon may say it, as whoever cancels them does.
SELECT DISTINCT t.etl_context_id, c.version
  FROM data_manager.cancel_intents i
    JOIN data_manager.dama_tasks t USING (etl_context_id)
    JOIN data_manager.etl_contexts c USING (etl_context_id)
  WHERE t.state IN ('queued', 'scheduled', 'retrying', 'waiting')
