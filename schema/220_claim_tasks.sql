-- A UUID of now of which others are made, as damad/eventstore/uuids.py makes one: milliseconds and random bits.
CREATE OR REPLACE FUNCTION data_manager.root_uuid()
  RETURNS text
  LANGUAGE sql VOLATILE PARALLEL SAFE
  RETURN regexp_replace(lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0'), '(.{4})$', '-\1-7')
         || substr(gen_random_uuid()::text, 16);

-- One of many uuids that are made of one: the time, forty random bits and a number. Random ones cost more than the rest of
-- an event, and each lies elsewhere in the index.
CREATE OR REPLACE FUNCTION data_manager.nth_uuid(root text, number bigint)
  RETURNS uuid
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN overlay(root PLACING lpad(to_hex(number), 8, '0') FROM 29)::uuid;

-- Claims each of some tasks whose contexts whoever calls holds, or none: a CLAIMED event that raises its fence, and a
-- lease. Returns what a runner needs to know, in the order of ids.
-- What is queued, scheduled or retrying may be claimed, whatever else is true of it: that is all that the table of
-- transitions says of this event. So all rows are written in one statement, and where a task is not so, the judge says what
-- is wrong.
CREATE OR REPLACE FUNCTION data_manager.claim_each(ids bigint[], host_id uuid, holder text, lease interval)
  RETURNS TABLE (
    etl_context_id bigint, parent_context_id bigint, queue text, worker text, state text, fence bigint, attempt integer,
    errors integer, crashes integer, settings jsonb, at timestamptz, event_id bigint, version bigint, event_uuid uuid,
    type text, payload jsonb, meta jsonb, error boolean, _created_timestamp timestamptz
  )
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  SET enable_hashjoin = off
  SET enable_mergejoin = off
  AS $$
    #variable_conflict use_column
    DECLARE
      now          timestamptz;
      lease_until  timestamptz;
      claimable    bigint;
      root         text := data_manager.root_uuid();
    BEGIN
      PERFORM FROM data_manager.etl_contexts c
        WHERE c.etl_context_id = ANY (ids)
        ORDER BY c.etl_context_id
        FOR NO KEY UPDATE;
      now := clock_timestamp();
      lease_until := now + lease;

      SELECT count(*) INTO claimable
        FROM data_manager.dama_tasks t
        WHERE t.etl_context_id = ANY (ids) AND t.state IN ('queued', 'scheduled', 'retrying');
      IF claimable <> cardinality(ids) THEN
        PERFORM data_manager.judge_events(ids, array_fill('dama/task:CLAIMED'::text, ARRAY[cardinality(ids)]), ARRAY (
            SELECT jsonb_build_object('fence', (
                SELECT t.fence + 1 FROM data_manager.dama_tasks t WHERE t.etl_context_id = e.id
              ))
              FROM unnest(ids) WITH ORDINALITY AS e (id, place) ORDER BY e.place
          ), NULL, NULL, NULL, NULL);
      END IF;

      RETURN QUERY
      WITH claimed AS MATERIALIZED (
        SELECT e.id, e.place, t, c.parent_context_id, c.version + 1 AS version, t.fence + 1 AS fence,
               t.attempt + CASE WHEN t.resumed THEN 0 ELSE 1 END AS attempt,
               greatest(now, c._modified_timestamp) AS moment,
               nextval('data_manager.event_store_event_id_seq') AS event_id
          FROM unnest(ids) WITH ORDINALITY AS e (id, place)
            JOIN data_manager.dama_tasks t ON t.etl_context_id = e.id
            JOIN data_manager.etl_contexts c ON c.etl_context_id = e.id
      ), contexts AS (
        UPDATE data_manager.etl_contexts c
          SET etl_status = 'OPEN', latest_event_id = n.event_id, version = n.version, _modified_timestamp = n.moment
          FROM claimed n
          WHERE c.etl_context_id = n.id
      ), tasks AS (
        UPDATE data_manager.dama_tasks t
          SET state = 'claimed', host_id = claim_each.host_id, fence = n.fence, pid = NULL
          FROM claimed n
          WHERE t.etl_context_id = n.id
      ), leased AS (
        INSERT INTO data_manager.leases AS l (etl_context_id, fence, holder, until)
          SELECT n.id, n.fence, claim_each.holder, lease_until FROM claimed n
          ON CONFLICT (etl_context_id)
            DO UPDATE SET fence = excluded.fence, holder = excluded.holder, until = excluded.until, waiting = false,
                        beat_at = NULL
      ), events AS (
        INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, payload, fence, txid,
                                              _created_timestamp)
          SELECT n.event_id, n.id, n.version, data_manager.nth_uuid(root, n.place), 'dama/task:CLAIMED',
                 jsonb_build_object('fence', n.fence, 'host_id', claim_each.host_id, 'holder', claim_each.holder,
                                    'lease_until', lease_until),
                 NULL, pg_current_xact_id(), n.moment
            FROM claimed n
      )
      SELECT n.id, n.parent_context_id, (n.t).queue, (n.t).worker, 'claimed', n.fence, n.attempt, (n.t).errors,
             (n.t).crashes, (n.t).settings, now,
             e.event_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
        FROM claimed n JOIN data_manager.event_store e ON e.event_id = (n.t).initial_event_id
        ORDER BY n.place;

      PERFORM data_manager.announce_contexts(ids);
    END
  $$;

-- Claims what may run now on this host: of each queue what its free slots hold, higher priority first, equal ones oldest first.
-- A task takes as many slots as it weighs, and none is claimed past one that waits for more of them: so light ones keep no
-- heavy one waiting for ever. wholes: how many slots a queue has here; what weighs more would never fit, and is passed by.
-- A context whose row somebody holds is left out, never waited for; and so is a task that somebody wants cancelled.
-- One that did not begin by its start_by is left out too: it has failed, and the log is about to say so (schema/225).
-- leave_out: contexts that are not to be claimed, though they might. What is queued and what became due are looked up
-- apart, each by an index of its own: one of the first is found as fast however many more wait behind it.
-- A queue that is paused, or has limits or aging, gives nothing here, whatever whoever calls knew of it: schema/222 serves it.
-- Planned once, for any number of slots, and so that nothing is sorted which an index has in order.
CREATE OR REPLACE FUNCTION data_manager.claim_tasks(
    queues     text[],
    slots      integer[],
    wholes     integer[],
    shared     boolean[],
    host_id    uuid,
    holder     text,
    lease      interval,
    leave_out  bigint[]
  )
  RETURNS TABLE (
    etl_context_id bigint, parent_context_id bigint, queue text, worker text, state text, fence bigint, attempt integer,
    errors integer, crashes integer, settings jsonb, at timestamptz, event_id bigint, version bigint, event_uuid uuid,
    type text, payload jsonb, meta jsonb, error boolean, _created_timestamp timestamptz
  )
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  SET enable_sort = off
  SET enable_hashjoin = off
  SET enable_mergejoin = off
  SET enable_bitmapscan = off
  AS $$
    #variable_conflict use_column
    DECLARE
      now      timestamptz := clock_timestamp();
      claimed  bigint[] := '{}';
    BEGIN
      FOR i IN 1 .. cardinality(queues) LOOP
        WITH queued AS MATERIALIZED (
          SELECT t.etl_context_id, t.priority, t.initial_event_id, data_manager.weight_of(t.settings) AS weight
            FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
            WHERE t.queue = queues[i] AND t.state = 'queued'
              AND (shared[i] OR t.home_host_id IS NULL OR t.home_host_id = claim_tasks.host_id)
              AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
              AND t.etl_context_id <> ALL (leave_out)
              AND (t.start_by IS NULL OR t.start_by > now)
              AND NOT EXISTS (
                SELECT FROM data_manager.dama_queues q
                  WHERE q.name = queues[i]
                    AND (q.paused OR num_nonnulls(q.global_concurrency, q.key_concurrency, q.rate, q.key_rate,
                                                  q.aging) > 0)
              )
              AND data_manager.weight_of(t.settings) <= wholes[i]
            ORDER BY t.priority DESC, t.initial_event_id
            LIMIT slots[i]
            FOR NO KEY UPDATE OF c, t SKIP LOCKED
        ), due AS MATERIALIZED (
          SELECT t.etl_context_id, t.priority, t.initial_event_id, data_manager.weight_of(t.settings) AS weight
            FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
            WHERE t.queue = queues[i] AND t.state IN ('scheduled', 'retrying') AND t.run_at <= now
              AND (shared[i] OR t.home_host_id IS NULL OR t.home_host_id = claim_tasks.host_id)
              AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
              AND t.etl_context_id <> ALL (leave_out)
              AND (t.start_by IS NULL OR t.start_by > now)
              AND NOT EXISTS (
                SELECT FROM data_manager.dama_queues q
                  WHERE q.name = queues[i]
                    AND (q.paused OR num_nonnulls(q.global_concurrency, q.key_concurrency, q.rate, q.key_rate,
                                                  q.aging) > 0)
              )
              AND data_manager.weight_of(t.settings) <= wholes[i]
            ORDER BY t.priority DESC, t.initial_event_id
            LIMIT slots[i]
            FOR NO KEY UPDATE OF c, t SKIP LOCKED
        )
        SELECT claimed || array_agg(ready.etl_context_id) INTO claimed FROM (
          SELECT found.etl_context_id, sum(found.weight) OVER (ORDER BY found.priority DESC, found.initial_event_id) AS taken
            FROM (SELECT * FROM queued UNION ALL SELECT * FROM due) AS found
            ORDER BY found.priority DESC, found.initial_event_id
        ) AS ready
          WHERE ready.taken <= slots[i];
      END LOOP;

      IF claimed <> '{}' THEN
        RETURN QUERY SELECT * FROM data_manager.claim_each(claimed, host_id, holder, lease);
      END IF;
    END
  $$;

-- Claims one task, whoever else might want it. Refused where its state does not allow it.
CREATE OR REPLACE FUNCTION data_manager.claim_task(id bigint, host_id uuid, holder text, lease interval)
  RETURNS void
  LANGUAGE sql
  AS $$
    SELECT FROM data_manager.claim_each(ARRAY[id], host_id, holder, lease)
  $$;
