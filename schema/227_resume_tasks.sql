-- Whether the children that a task waits for have ended: all or, where that is enough, any. The last ones are asked first:
-- of many that were queued together they are the ones that end last, so that the answer is mostly found at once.
CREATE OR REPLACE FUNCTION data_manager.have_ended(waits_for jsonb)
  RETURNS boolean
  LANGUAGE plpgsql STABLE
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    DECLARE
      ids          bigint[] := ARRAY (SELECT jsonb_array_elements_text(waits_for -> 'children')::bigint);
      any_of_them  boolean  := coalesce(waits_for -> 'any' = 'true', false);
      ended        boolean;
    BEGIN
      FOR place IN REVERSE cardinality(ids) .. 1 LOOP
        SELECT coalesce(t.state IN ('done', 'failed', 'cancelled'), c.etl_status = 'DONE') INTO ended
          FROM data_manager.etl_contexts c LEFT JOIN data_manager.dama_tasks t USING (etl_context_id)
          WHERE c.etl_context_id = ids[place];
        IF coalesce(ended, false) = any_of_them THEN
          RETURN any_of_them;
        END IF;
      END LOOP;
      RETURN NOT any_of_them;
    END
  $$;

-- What ended a wait, as its RESUMED event says it; NULL while it goes on. It comes from the log alone, so that whoever asks
-- finds the same: an event, also one that was there before the task began to wait · contexts that ended · the time.
CREATE OR REPLACE FUNCTION data_manager.end_of_wait(id bigint, waits_for jsonb, run_at timestamptz)
  RETURNS jsonb
  LANGUAGE plpgsql STABLE
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    DECLARE
      met  bigint;
    BEGIN
      IF waits_for ->> 'event' IS NOT NULL THEN
        SELECT e.version INTO met
          FROM data_manager.event_store e
          WHERE e.etl_context_id = id AND e.version > (waits_for ->> 'after_version')::bigint
            AND e.type = waits_for ->> 'event'
          ORDER BY e.version
          LIMIT 1;
        IF met IS NOT NULL THEN
          RETURN jsonb_build_object('name', waits_for -> 'name', 'reason', 'event', 'version', met);
        END IF;
      END IF;
      IF waits_for ->> 'children' IS NOT NULL AND data_manager.have_ended(waits_for) THEN
        RETURN jsonb_build_object('name', waits_for -> 'name', 'reason', 'children');
      END IF;
      IF waits_for ->> 'until' IS NOT NULL AND run_at <= clock_timestamp() THEN
        RETURN jsonb_build_object('name', waits_for -> 'name', 'reason',
                                  CASE WHEN waits_for ->> 'event' IS NULL THEN 'time' ELSE 'timeout' END);
      END IF;
      RETURN NULL;
    END
  $$;

-- Queues again what has waited long enough: of this host's own tasks, and of those in queues that are shared. Returns them.
-- Who waits for its time alone is looked at when that has come, by an index: ten thousand that sleep cost nothing.
-- A context whose row somebody holds is left out, never waited for (whoever asks next finds it); and so is a task that
-- somebody wants cancelled. Who gets the rows looks again, so that of two who ask at once one resumes it.
-- only: of these tasks alone, or NULL · leave_out: contexts that are not to be resumed, though they might.
CREATE OR REPLACE FUNCTION data_manager.resume_tasks(host_id uuid, shared text[], only_ids bigint[], leave_out bigint[])
  RETURNS bigint[]
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    DECLARE
      now       timestamptz := clock_timestamp();
      ids       bigint[];
      payloads  jsonb[];
    BEGIN
      ids := ARRAY (
        SELECT t.etl_context_id
          FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
          WHERE t.etl_context_id = ANY (ARRAY (
              SELECT slept.etl_context_id FROM data_manager.dama_tasks slept
                WHERE slept.state = 'waiting' AND slept.run_at <= statement_timestamp()
              UNION
              SELECT awaits.etl_context_id FROM data_manager.dama_tasks awaits
                WHERE awaits.state = 'waiting' AND awaits.waits_for ?| '{event,children}'
            ))
            AND t.state = 'waiting'
            AND (t.queue = ANY (shared) OR t.home_host_id IS NULL OR t.home_host_id = resume_tasks.host_id)
            AND (only_ids IS NULL OR t.etl_context_id = ANY (only_ids))
            AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
            AND t.etl_context_id <> ALL (leave_out)
            AND (
              t.waits_for ->> 'until' IS NOT NULL AND t.run_at <= now
              OR t.waits_for ->> 'event' IS NOT NULL AND EXISTS (
                SELECT FROM data_manager.event_store e
                  WHERE e.etl_context_id = t.etl_context_id AND e.version > (t.waits_for ->> 'after_version')::bigint
                    AND e.type = t.waits_for ->> 'event'
              )
              OR t.waits_for ->> 'children' IS NOT NULL AND data_manager.have_ended(t.waits_for)
            )
          LIMIT 1000
          FOR NO KEY UPDATE OF c, t SKIP LOCKED
      );
      SELECT array_agg(t.etl_context_id ORDER BY t.etl_context_id), array_agg(was.the_end ORDER BY t.etl_context_id)
        INTO ids, payloads
        FROM data_manager.dama_tasks t,
          LATERAL (SELECT data_manager.end_of_wait(t.etl_context_id, t.waits_for, t.run_at) OFFSET 0) AS was (the_end)
        WHERE t.etl_context_id = ANY (ids) AND t.state = 'waiting' AND was.the_end IS NOT NULL;
      IF ids IS NULL THEN
        RETURN '{}';
      END IF;

      INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, payload, meta, error,
                                            fence, txid, _created_timestamp)
        SELECT * FROM data_manager.judge_events(
          ids, array_fill('dama/task:RESUMED'::text, ARRAY[cardinality(ids)]), payloads, NULL, NULL, NULL, NULL);
      RETURN ids;
    END
  $$;
