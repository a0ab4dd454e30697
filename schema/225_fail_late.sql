-- Fails tasks that did not begin by their start_by: ERROR and FAILED, as for an attempt, but that there was none. Returns
-- them. Any daemon may say it, for no process of theirs lives: they were never held, or handed back before they began.
-- At most a thousand at a time. A context whose row somebody holds is left out, never waited for; and so is a task that
-- somebody wants cancelled, and those in leave_out, whose log takes nothing.
CREATE OR REPLACE FUNCTION data_manager.fail_late(most integer, leave_out bigint[])
  RETURNS TABLE (etl_context_id bigint, start_by timestamptz)
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    #variable_conflict use_column
    DECLARE
      now      timestamptz := clock_timestamp();
      ids      bigint[];
      bys      timestamptz[];
    BEGIN
      SELECT array_agg(late.etl_context_id), array_agg(late.start_by) INTO ids, bys
        FROM (
          SELECT t.etl_context_id, t.start_by
            FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
            WHERE t.start_by <= now AND t.state IN ('queued', 'scheduled')
              AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
              AND t.etl_context_id <> ALL (leave_out)
            ORDER BY t.start_by
            LIMIT most
            FOR NO KEY UPDATE OF c, t SKIP LOCKED
        ) AS late;
      IF ids IS NULL THEN
        RETURN;
      END IF;

      INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, payload, meta, error, fence,
                                            txid, _created_timestamp)
        SELECT * FROM data_manager.judge_events(ids, array_fill('dama/task:ERROR'::text, ARRAY[cardinality(ids)]), ARRAY (
            SELECT jsonb_build_object('attempt', 0, 'kind', 'start_by', 'message', format('it did not start by %s', to_jsonb(by) #>> '{}'),
                                      'type', NULL, 'traceback', NULL, 'exit_code', NULL, 'signal', NULL)
              FROM unnest(bys) WITH ORDINALITY AS b (by, place) ORDER BY b.place
          ), NULL, array_fill(true, ARRAY[cardinality(ids)]), NULL, NULL);
      INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, payload, meta, error, fence,
                                            txid, _created_timestamp)
        SELECT * FROM data_manager.judge_events(ids, array_fill('dama/task:FAILED'::text, ARRAY[cardinality(ids)]),
          array_fill('{"reason": "it did not start by start_by", "attempt": 0}'::jsonb, ARRAY[cardinality(ids)]),
          NULL, array_fill(true, ARRAY[cardinality(ids)]), NULL, NULL);
      RETURN QUERY SELECT * FROM unnest(ids, bys);
    END
  $$;
