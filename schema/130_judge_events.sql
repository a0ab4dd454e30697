-- Why an event is refused, with what its writer needs to act.
CREATE OR REPLACE FUNCTION data_manager.refuse_event(
    code        text,
    id          bigint,
    type        text,
    before      text,
    event_uuid  uuid,
    fence       bigint,
    task        data_manager.dama_tasks
  )
  RETURNS bigint
  LANGUAGE plpgsql
  AS $$
    DECLARE
      about  jsonb := jsonb_build_object('etl_context_id', id);
    BEGIN
      RETURN CASE code
        WHEN 'DA005' THEN data_manager.refuse(code, format('there is no context %s', coalesce(id::text, 'NULL')), about)
        WHEN 'DA004' THEN data_manager.refuse(code, format('event_uuid %s is in the log already', event_uuid),
          jsonb_build_object('event_uuid', event_uuid))
        WHEN 'DA002' THEN data_manager.refuse(code, format('fence %s is no longer valid for context %s', fence, id),
          about || jsonb_build_object('fence', fence, 'current_fence', task.fence, 'state', before))
        WHEN 'DA001' THEN data_manager.refuse(code,
          CASE WHEN before = 'new' THEN format('the first event of context %s must be its :INITIAL, not %s', id, type)
               ELSE format('%s may not follow in context %s, which is %s', type, id, before) END,
          about || jsonb_build_object('type', type, 'state', before))
        WHEN 'DA011' THEN data_manager.refuse(code,
          format('context %s has singleton_key %s, which another open task has: wait for it, or cancel it', id,
                 to_jsonb(task.singleton_key)),
          about || (SELECT jsonb_build_object('singleton_key', t.singleton_key, 'open_etl_context_id', t.etl_context_id)
                      FROM data_manager.dama_tasks t
                      WHERE t.singleton_key = task.singleton_key AND t.state NOT IN ('done', 'failed', 'cancelled')))
        WHEN 'DA007' THEN data_manager.refuse(code,
          format('payload or meta of %s holds a number that a double cannot hold, or is nested deeper than 128', type),
          about || jsonb_build_object('type', type))
      END;
    END
  $$;

-- The judge of every append, whoever inserts: of many events at once, in the order given. A context that has several of
-- them is one that exists, and they are such that none changes what may follow: EVENT, EVENT_ERROR, STEP, SUBTASK and
-- PROGRESS. Whoever calls sees to that.
-- Under the locks of the contexts' rows it gives each event its place (version, event_id, time), asks the table of
-- transitions, refuses an old fence, and writes the projections; what it returns is to be inserted as it is. A fence is
-- old once a claim raised it, and as soon as the claim that it stands for is over: a run that was released, failed or
-- ended to wait appends nothing more.
-- FOR NO KEY UPDATE, because FOR UPDATE would block whoever queues a child of this context; in the order of their ids, so
-- that two appends cannot wait for each other. The event_id is drawn here and not by the column's default, which is
-- drawn before the lock is held and so out of order.
-- What is looked up for each event is a subquery: joined, a large set would have Postgres read whole tables.
CREATE OR REPLACE FUNCTION data_manager.judge_events(
    etl_context_ids  bigint[],
    types            text[],
    payloads         jsonb[],
    metas            jsonb[],
    errors           boolean[],
    event_uuids      uuid[],
    fences           bigint[]
  )
  RETURNS TABLE (
    event_id bigint, etl_context_id bigint, version bigint, event_uuid uuid, type text, payload jsonb, meta jsonb,
    error boolean, fence bigint, txid xid8, _created_timestamp timestamptz
  )
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    #variable_conflict use_column
    DECLARE
      kinds      text[];
      befores    text[];
      afters     text[];
      nths       bigint[];
      lasts      boolean[];
      versions   bigint[];
      moments    timestamptz[];
      event_ids  bigint[];
      now        timestamptz;
      wrong      text;
      given      jsonb;
    BEGIN
      PERFORM FROM data_manager.etl_contexts c
        WHERE c.etl_context_id = ANY (etl_context_ids)
        ORDER BY c.etl_context_id
        FOR NO KEY UPDATE;
      now := clock_timestamp();

      IF cardinality(etl_context_ids) > 1 AND (SELECT count(*) <> count(DISTINCT e.id) FROM unnest(etl_context_ids) AS e (id)) THEN
        SELECT array_agg(e.nth ORDER BY e.place), array_agg(e.last ORDER BY e.place) INTO nths, lasts
          FROM (
            SELECT e.place, row_number() OVER (PARTITION BY e.id ORDER BY e.place) AS nth,
                   lead(e.id) OVER (PARTITION BY e.id ORDER BY e.place) IS NULL AS last
              FROM unnest(etl_context_ids) WITH ORDINALITY AS e (id, place)
          ) AS e;
      END IF;

      WITH asked AS (
        SELECT e.*,
               data_manager.event_kind(e.type) AS kind_of_type,
               (SELECT c FROM data_manager.etl_contexts c WHERE c.etl_context_id = e.id) AS ctx,
               (SELECT t FROM data_manager.dama_tasks t WHERE t.etl_context_id = e.id) AS task
          FROM unnest(etl_context_ids, types, payloads, metas, event_uuids, fences, nths)
            AS e (id, type, payload, meta, event_uuid, fence, nth)
          OFFSET 0
      ), stepped AS (
        SELECT a.*,
               CASE WHEN a.kind_of_type = 'INITIAL' AND jsonb_typeof(a.meta -> '__dama_task_manager__') <> 'null'
                    THEN 'TASK_INITIAL' ELSE a.kind_of_type END AS kind,
               CASE WHEN (a.ctx).initial_event_id IS NULL THEN 'new'
                    ELSE coalesce((a.task).state, lower((a.ctx).etl_status)) END AS before
          FROM asked a
          OFFSET 0
      ), led AS (
        SELECT s.*, (
          SELECT t.next_state FROM data_manager.transitions t WHERE t.state = s.before AND t.kind = s.kind
        ) AS after
          FROM stepped s
          OFFSET 0
      ), judged AS (
        SELECT l.kind, l.before, l.after,
               (l.ctx).version + coalesce(l.nth, 1) AS version,
               greatest(now, (l.ctx)._modified_timestamp) AS moment,
               CASE
                 WHEN (l.ctx).etl_context_id IS NULL THEN
                   data_manager.refuse_event('DA005', l.id, l.type, l.before, l.event_uuid, l.fence, l.task)
                 -- Asked here and not left to the unique index, which ON CONFLICT DO NOTHING would pass by in silence.
                 WHEN (SELECT true FROM data_manager.event_store s WHERE s.event_uuid = l.event_uuid) THEN
                   data_manager.refuse_event('DA004', l.id, l.type, l.before, l.event_uuid, l.fence, l.task)
                 WHEN l.fence IS NOT NULL AND (
                   l.fence IS DISTINCT FROM (l.task).fence OR l.before IN ('queued', 'scheduled', 'retrying', 'waiting')
                 ) THEN
                   data_manager.refuse_event('DA002', l.id, l.type, l.before, l.event_uuid, l.fence, l.task)
                 WHEN l.after IS NULL OR (l.kind = 'CLAIMED' AND (l.payload ->> 'fence')::bigint <= (l.task).fence) THEN
                   data_manager.refuse_event('DA001', l.id, l.type, l.before, l.event_uuid, l.fence, l.task)
                 WHEN l.kind = 'REQUEUED' AND (
                   SELECT true FROM data_manager.dama_tasks t
                     WHERE t.singleton_key = (l.task).singleton_key AND t.state NOT IN ('done', 'failed', 'cancelled')
                 ) THEN
                   data_manager.refuse_event('DA011', l.id, l.type, l.before, l.event_uuid, l.fence, l.task)
                 WHEN NOT (data_manager.is_plain(l.payload) AND data_manager.is_plain(l.meta)) THEN
                   data_manager.refuse_event('DA007', l.id, l.type, l.before, l.event_uuid, l.fence, l.task)
                 ELSE nextval('data_manager.event_store_event_id_seq')
               END AS event_id
          FROM led l
          OFFSET 0
      )
      SELECT array_agg(j.kind), array_agg(j.before), array_agg(j.after), array_agg(j.version),
             array_agg(j.moment), array_agg(j.event_id)
        INTO kinds, befores, afters, versions, moments, event_ids
        FROM judged j;

      UPDATE data_manager.etl_contexts c
        SET etl_status          = data_manager.etl_status_after(j.type),
            initial_event_id    = coalesce(c.initial_event_id, j.event_id),
            latest_event_id     = j.event_id,
            version             = j.version,
            _modified_timestamp = j.moment
        FROM unnest(etl_context_ids, types, versions, moments, event_ids, lasts)
          AS j (id, type, version, moment, event_id, last)
        WHERE c.etl_context_id = j.id AND j.last IS NOT FALSE;

      IF kinds && '{CLAIMED,STARTED,RETRY,RELEASED,WAITING}' THEN
        PERFORM data_manager.refuse('DA007', format('the payload of %s does not fit', j.type),
                                    jsonb_build_object('type', j.type, 'payload', j.payload))
          FROM unnest(kinds, types, payloads) AS j (kind, type, payload)
          WHERE NOT data_manager.is_readable(j.kind, j.payload);
      END IF;
      IF 'TASK_INITIAL' = ANY (kinds) THEN
        SELECT unfit.setting, j.settings -> unfit.setting INTO wrong, given
          FROM (SELECT e.meta -> '__dama_task_manager__' AS settings FROM unnest(kinds, metas) AS e (kind, meta)
                  WHERE e.kind = 'TASK_INITIAL' OFFSET 0) AS j,
            LATERAL (SELECT data_manager.unfit_setting(j.settings) AS setting OFFSET 0) AS unfit
          WHERE unfit.setting IS NOT NULL
          LIMIT 1;
        IF FOUND THEN
          PERFORM data_manager.refuse('DA007', format('the task setting %s is missing or does not fit: %s', wrong, given),
            jsonb_build_object('setting', wrong));
        END IF;
        INSERT INTO data_manager.dama_tasks
          SELECT evolved.*
            FROM unnest(etl_context_ids, kinds, afters, payloads, metas, moments, event_ids)
                AS j (id, kind, after, payload, meta, moment, event_id),
              LATERAL data_manager.new_task(j.id, j.event_id, j.meta -> '__dama_task_manager__', j.moment) AS new,
              LATERAL data_manager.evolve_task(new, j.kind, j.after, j.payload, j.moment) AS evolved
            WHERE j.kind = 'TASK_INITIAL';
      END IF;

      IF NOT kinds <@ '{INITIAL,TASK_INITIAL,EVENT,EVENT_ERROR,STEP,SUBTASK}' THEN
        IF lasts IS NOT NULL THEN  -- of PROGRESS the last one counts
          SELECT array_agg(e.last ORDER BY e.place) INTO lasts
            FROM (
              SELECT e.place, lead(e.id) OVER (PARTITION BY e.id, e.kind ORDER BY e.place) IS NULL AS last
                FROM unnest(etl_context_ids, kinds) WITH ORDINALITY AS e (id, kind, place)
            ) AS e;
        END IF;
        UPDATE data_manager.dama_tasks t
          SET state = evolved.state, run_at = evolved.run_at, host_id = evolved.host_id, fence = evolved.fence,
              attempt = evolved.attempt, pid = evolved.pid, errors = evolved.errors, crashes = evolved.crashes,
              resumed = evolved.resumed, started_at = evolved.started_at, finished_at = evolved.finished_at,
              progress = evolved.progress, error = evolved.error, waits_for = evolved.waits_for,
              start_by = evolved.start_by
          FROM unnest(etl_context_ids, kinds, afters, payloads, moments, lasts)
              AS j (id, kind, after, payload, moment, last),
            LATERAL (SELECT was FROM data_manager.dama_tasks was WHERE was.etl_context_id = j.id OFFSET 0) AS found,
            LATERAL data_manager.evolve_task(found.was, j.kind, j.after, j.payload, j.moment) AS evolved
          WHERE t.etl_context_id = j.id AND j.last IS NOT FALSE
            AND j.kind NOT IN ('TASK_INITIAL', 'EVENT', 'EVENT_ERROR', 'STEP', 'SUBTASK');
        DELETE FROM data_manager.leases l
          USING unnest(etl_context_ids, befores, afters) AS j (id, before, after)
          WHERE l.etl_context_id = j.id
            AND j.before IN ('claimed', 'running', 'cancelling', 'erred')
            AND j.after NOT IN ('claimed', 'running', 'cancelling', 'erred');
        IF 'FAILED' = ANY (kinds) THEN
          PERFORM data_manager.queue_on_failure(array_agg(j.id), array_agg(j.payload))
            FROM unnest(etl_context_ids, kinds, payloads) AS j (id, kind, payload)
            WHERE j.kind = 'FAILED';
        END IF;
        -- Who cancels a task cancels what it queued, and not what its failure did. Noted, for to write it would need the locks of all those contexts.
        IF 'CANCELLED' = ANY (kinds) THEN
          INSERT INTO data_manager.cancel_intents (etl_context_id)
            SELECT child.etl_context_id
              FROM unnest(etl_context_ids, kinds) AS j (id, kind)
                JOIN data_manager.etl_contexts child ON child.parent_context_id = j.id
                JOIN data_manager.dama_tasks t ON t.etl_context_id = child.etl_context_id
              WHERE j.kind = 'CANCELLED' AND t.state NOT IN ('cancelling', 'done', 'failed', 'cancelled')
                AND t.settings ->> 'on_failure_of' IS NULL;
        END IF;
      END IF;

      PERFORM data_manager.announce_events(etl_context_ids, kinds, afters);
      RETURN QUERY
      SELECT j.event_id, j.id, j.version, coalesce(j.event_uuid, gen_random_uuid()), j.type, j.payload, j.meta, j.error,
             j.fence, pg_current_xact_id(), j.moment
        FROM unnest(etl_context_ids, types, payloads, metas, errors, event_uuids, fences, versions, moments, event_ids)
          AS j (id, type, payload, meta, error, event_uuid, fence, version, moment, event_id);
    END
  $$;

-- An event that somebody inserts is judged alone, whatever columns were filled in.
CREATE OR REPLACE FUNCTION data_manager.judge_event()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      SELECT j.event_id, j.version, j.event_uuid, j.txid, j._created_timestamp, false
        INTO STRICT NEW.event_id, NEW.version, NEW.event_uuid, NEW.txid, NEW._created_timestamp, NEW.legacy
        FROM data_manager.judge_events(ARRAY[NEW.etl_context_id], ARRAY[NEW.type], ARRAY[NEW.payload], ARRAY[NEW.meta],
                                       ARRAY[NEW.error], ARRAY[NEW.event_uuid], ARRAY[NEW.fence]) AS j;
      RETURN NEW;
    END
  $$;
