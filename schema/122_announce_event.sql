-- The hints that an append gives to whoever listens. A hint carries no more than an id, and none is given
-- for progress: commits that notify queue on one lock of the whole cluster.
--   ETL_CONTEXT_FINAL_EVENT  the original's channel: the context's id, when its :FINAL commits
--   DAMAD_EVENT              the context's id, for every other reader of its events
--   DAMAD_TASK               something changed that a scheduler may act upon
CREATE OR REPLACE FUNCTION data_manager.announce_event(etl_context_id bigint, kind text, task_state text)
  RETURNS void
  LANGUAGE plpgsql
  AS $$
    BEGIN
      IF kind = 'PROGRESS' THEN
        RETURN;
      END IF;
      PERFORM pg_notify('DAMAD_EVENT', etl_context_id::text);
      IF kind = 'FINAL' THEN
        PERFORM pg_notify('ETL_CONTEXT_FINAL_EVENT', etl_context_id::text);
      END IF;
      IF task_state IN ('queued', 'scheduled', 'retrying', 'waiting', 'cancelling', 'done', 'failed', 'cancelled') THEN
        PERFORM pg_notify('DAMAD_TASK', '');
      END IF;
    END
  $$;
