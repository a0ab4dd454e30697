-- Claims what may run now on this host: at most slots tasks of one queue, higher priority first, equal ones
-- oldest first, each with a lease and a CLAIMED event that raises its fence.
-- A context whose row somebody holds is left out, never waited for; and so is a task that somebody wants cancelled.
-- leave_out: contexts whose claim is known to fail, and would fail the others' with it.
CREATE OR REPLACE FUNCTION data_manager.claim_tasks(
    queue      text,
    slots      integer,
    shared     boolean,
    host_id    uuid,
    holder     text,
    lease      interval,
    leave_out  bigint[] DEFAULT '{}'
  )
  RETURNS SETOF bigint
  LANGUAGE plpgsql
  AS $$
    DECLARE
      claimed  bigint[];
      id       bigint;
    BEGIN
      SELECT array_agg(ready.etl_context_id) INTO claimed FROM (
        SELECT t.etl_context_id
          FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
          WHERE t.queue = claim_tasks.queue
            AND (t.state = 'queued' OR t.state IN ('scheduled', 'retrying') AND t.run_at <= clock_timestamp())
            AND (shared OR t.home_host_id IS NULL OR t.home_host_id = claim_tasks.host_id)
            AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
            AND t.etl_context_id <> ALL (leave_out)
          ORDER BY t.priority DESC, t.initial_event_id
          LIMIT slots
          FOR NO KEY UPDATE OF c, t SKIP LOCKED
      ) AS ready;

      FOREACH id IN ARRAY coalesce(claimed, '{}') LOOP
        PERFORM data_manager.claim_task(id, host_id, holder, lease);
        RETURN NEXT id;
      END LOOP;
    END
  $$;

-- Claims one task, whoever else might want it. Refused where its state does not allow it.
CREATE OR REPLACE FUNCTION data_manager.claim_task(id bigint, host_id uuid, holder text, lease interval)
  RETURNS void
  LANGUAGE plpgsql
  AS $$
    DECLARE
      lease_until  timestamptz := clock_timestamp() + lease;
      next_fence   bigint;
    BEGIN
      PERFORM FROM data_manager.etl_contexts WHERE etl_context_id = id FOR NO KEY UPDATE;
      SELECT fence + 1 INTO next_fence FROM data_manager.dama_tasks WHERE etl_context_id = id;
      INSERT INTO data_manager.event_store (etl_context_id, type, payload)
        VALUES (id, 'dama/task:CLAIMED', jsonb_build_object(
          'fence', next_fence, 'host_id', host_id, 'holder', holder, 'lease_until', lease_until));
      INSERT INTO data_manager.leases AS l (etl_context_id, fence, holder, until)
        VALUES (id, next_fence, claim_task.holder, lease_until)
        ON CONFLICT (etl_context_id)
          DO UPDATE SET fence = excluded.fence, holder = excluded.holder, until = excluded.until, waiting = false;
    END
  $$;
