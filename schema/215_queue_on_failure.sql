-- Queues the task that each of some tasks names in on_failure, where they are failed by events that are judged right now:
-- in the transaction of FAILED, so that there is one for each of these or neither. A child of the failed task, in its queue,
-- on its host, about its source. payload: {"etl_context_id", "worker", "reason", "error", "payload"}, the last one that of
-- the task's :INITIAL, or null where it is nested too deep to be in another.
-- What it says of itself (on_failure: null) wins over the queue's defaults: no task is queued for its failure in turn.
-- Whatever the settings of the failed task hold, nothing here is refused: else it could never fail.
CREATE OR REPLACE FUNCTION data_manager.queue_on_failure(ids bigint[], payloads jsonb[])
  RETURNS void
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    BEGIN
      PERFORM data_manager.queue_tasks(
          array_agg(failed.id), array_agg(failed.source_id), array_agg(':INITIAL'::text), array_agg(failed.said),
          array_agg(jsonb_build_object('__dama_task_manager__', failed.settings)), array_agg(gen_random_uuid()))
        FROM (
          SELECT t.etl_context_id AS id, c.source_id,
                 jsonb_strip_nulls(jsonb_build_object(
                   'worker', t.settings -> 'on_failure', 'queue', t.queue, 'dama_host_id', t.settings -> 'dama_host_id'))
                   || jsonb_build_object('on_failure', NULL, 'on_failure_of', t.etl_context_id) AS settings,
                 CASE WHEN data_manager.is_plain(told.said || jsonb_build_object('payload', e.payload))
                      THEN told.said || jsonb_build_object('payload', e.payload)
                      ELSE told.said || '{"payload": null}' END AS said
            FROM unnest(ids, payloads) AS j (id, payload)
              JOIN data_manager.dama_tasks t ON t.etl_context_id = j.id
              JOIN data_manager.etl_contexts c ON c.etl_context_id = j.id
              JOIN data_manager.event_store e ON e.event_id = t.initial_event_id
              CROSS JOIN LATERAL (
                SELECT jsonb_build_object('etl_context_id', t.etl_context_id, 'worker', t.worker, 'error', t.error,
                                          'reason', j.payload -> 'reason') AS said
              ) AS told
            WHERE jsonb_typeof(t.settings -> 'on_failure') = 'string' AND t.settings -> 'on_failure' <> '""'
        ) AS failed
        HAVING count(*) > 0;
    END
  $$;
