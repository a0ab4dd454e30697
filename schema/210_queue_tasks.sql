-- A context and its first event for each of some, as the judge takes them.
CREATE OR REPLACE FUNCTION data_manager.begin_contexts(
    parent_context_ids  bigint[],
    source_ids          bigint[],
    types               text[],
    payloads            jsonb[],
    metas               jsonb[],
    event_uuids         uuid[]
  )
  RETURNS bigint[]
  LANGUAGE plpgsql
  AS $$
    DECLARE
      ids  bigint[];
    BEGIN
      WITH begun AS (
        INSERT INTO data_manager.etl_contexts AS c (parent_context_id, source_id)
          SELECT e.parent, e.source
            FROM unnest(parent_context_ids, source_ids, types) WITH ORDINALITY AS e (parent, source, type, place)
            ORDER BY e.place
          RETURNING c.etl_context_id
      )
      SELECT array_agg(begun.etl_context_id ORDER BY begun.etl_context_id) INTO ids FROM begun;

      INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, payload, meta, error, fence,
                                            txid, _created_timestamp)
        SELECT * FROM data_manager.judge_events(ids, types, payloads, metas, NULL, event_uuids, NULL);
      RETURN ids;
    END
  $$;

-- A context and its :INITIAL for each of some tasks; returns their ids in the order given.
-- Nothing was there before, so nothing but these events is to be judged: where each is a task's :INITIAL as the judge would
-- let it in, all rows are written in one statement, once each. Else none is, and the judge says what is wrong.
-- It plans as queue_tasks does, which alone calls it.
CREATE OR REPLACE FUNCTION data_manager.begin_tasks(
    parent_context_ids  bigint[],
    source_ids          bigint[],
    types               text[],
    payloads            jsonb[],
    metas               jsonb[],
    event_uuids         uuid[]
  )
  RETURNS bigint[]
  LANGUAGE plpgsql
  AS $$
    DECLARE
      ids  bigint[];
    BEGIN
      WITH asked AS MATERIALIZED (
        SELECT e.*, e.meta -> '__dama_task_manager__' AS settings
          FROM unnest(parent_context_ids, source_ids, types, payloads, metas, event_uuids)
            AS e (parent, source, type, payload, meta, event_uuid)
      ), begun AS MATERIALIZED (
        SELECT a.*,
               nextval('data_manager.etl_contexts_etl_context_id_seq') AS id,
               nextval('data_manager.event_store_event_id_seq') AS event_id,
               clock_timestamp() AS moment
          FROM asked a
          WHERE (
            SELECT bool_and((
                data_manager.event_kind(a.type) = 'INITIAL'
                AND jsonb_typeof(a.settings) = 'object'
                AND data_manager.unfit_setting(a.settings) IS NULL
                AND data_manager.is_plain(a.payload) AND data_manager.is_plain(a.meta)
              ) IS TRUE) FROM asked a
          )
      ), contexts AS (
        INSERT INTO data_manager.etl_contexts (etl_context_id, parent_context_id, source_id, etl_status, initial_event_id,
                                               latest_event_id, version, _created_timestamp, _modified_timestamp)
          OVERRIDING SYSTEM VALUE
          SELECT b.id, b.parent, b.source, 'OPEN', b.event_id, b.event_id, 1, b.moment, b.moment FROM begun b
      ), tasks AS (
        INSERT INTO data_manager.dama_tasks (etl_context_id, worker, queue, priority, settings, idempotency_key, state,
                                             initial_event_id, run_at, home_host_id, start_by, singleton_key, schedule)
          SELECT t.etl_context_id, t.worker, t.queue, t.priority, t.settings, t.idempotency_key,
                 CASE WHEN t.run_at > b.moment THEN 'scheduled' ELSE t.state END, t.initial_event_id, t.run_at,
                 t.home_host_id, t.start_by, t.singleton_key, t.schedule
            FROM begun b, LATERAL data_manager.new_task(b.id, b.event_id, b.settings, b.moment) AS t
      ), events AS (
        INSERT INTO data_manager.event_store (event_id, etl_context_id, version, event_uuid, type, payload, meta, txid,
                                              _created_timestamp)
          SELECT b.event_id, b.id, 1, coalesce(b.event_uuid, gen_random_uuid()), b.type, b.payload, b.meta,
                 pg_current_xact_id(), b.moment
            FROM begun b
      )
      SELECT array_agg(b.id) INTO ids FROM begun b;

      IF ids IS NULL THEN
        RETURN data_manager.begin_contexts(parent_context_ids, source_ids, types, payloads, metas, event_uuids);
      END IF;
      PERFORM data_manager.announce_contexts(ids), pg_notify('DAMAD_TASK', '');
      RETURN ids;
    END
  $$;

-- Queues tasks: a context and its :INITIAL for each, in one transaction with whatever else the caller does.
-- An event_uuid or an idempotency_key that was seen before queues nothing and answers with the first one's id
-- unless what was asked for differs: then it is refused.
-- A singleton_key that an open task has queues nothing either, whatever was asked for, and answers with that one's id. With
-- debounce it is put off as well, while it waits for its time; and with throttle so does the key of a task that has ended, for
-- so long after that was queued.
-- Tasks that were not seen before are queued at once; where one may be the same as another, it goes one by one.
-- created: the :INITIAL has the event_uuid that was given, so whoever asks made the task, perhaps the first time already.
-- suppressed: the setting for whose sake the answer is another task.
CREATE OR REPLACE FUNCTION data_manager.queue_tasks(
    parent_context_ids  bigint[],
    source_ids          bigint[],
    types               text[],
    payloads            jsonb[],
    metas               jsonb[],
    event_uuids         uuid[]
  )
  RETURNS TABLE (created boolean, etl_context_id bigint, suppressed text)
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    DECLARE
      keys       text[];
      alone      text[];
      seen       boolean := false;
      keyed      boolean;
      defaulted  boolean;
      first      data_manager.event_store;
      parent     bigint;
      source     bigint;
      wait       double precision;
    BEGIN
      IF cardinality(types) > 1 THEN
        SELECT count(DISTINCT e.uuid) < count(e.uuid) INTO seen FROM unnest(event_uuids) AS e (uuid);
      END IF;
      SELECT seen OR EXISTS (SELECT FROM data_manager.event_store e WHERE e.event_uuid = ANY (event_uuids)),
             EXISTS (SELECT FROM unnest(metas) AS e (meta)
                       WHERE e.meta -> '__dama_task_manager__' ?| '{idempotency_key,singleton_key}'),
             EXISTS (SELECT FROM data_manager.dama_queues q WHERE q.settings <> '{}')
        INTO seen, keyed, defaulted;

      IF keyed OR defaulted THEN
        SELECT array_agg(e.key ORDER BY e.place), array_agg(e.singleton ORDER BY e.place),
               seen OR count(DISTINCT e.key) < count(e.key) OR count(DISTINCT e.singleton) < count(e.singleton)
          INTO keys, alone, seen
          FROM (
            SELECT e.place, e.meta #>> '{__dama_task_manager__,idempotency_key}' AS key,
                   e.meta #>> '{__dama_task_manager__,singleton_key}' AS singleton
              FROM unnest(metas) WITH ORDINALITY AS e (meta, place)
          ) AS e;
        IF defaulted THEN
          metas := ARRAY (
            SELECT data_manager.with_defaults(e.meta) FROM unnest(metas) WITH ORDINALITY AS e (meta, place) ORDER BY e.place
          );
        END IF;
        seen := seen OR EXISTS (SELECT FROM data_manager.dama_tasks t WHERE t.idempotency_key = ANY (keys));
        IF array_remove(alone, NULL) <> '{}' THEN
          seen := data_manager.hold_throttled(metas) OR seen;
          seen := seen OR EXISTS (SELECT FROM data_manager.dama_tasks t
                                    WHERE t.singleton_key = ANY (alone) AND t.state NOT IN ('done', 'failed', 'cancelled'));
        END IF;
      END IF;

      IF NOT seen THEN
        created := true;
        FOREACH etl_context_id IN ARRAY data_manager.begin_tasks(
          parent_context_ids, source_ids, types, payloads, metas, event_uuids)
        LOOP
          RETURN NEXT;
        END LOOP;
        RETURN;
      END IF;

      FOR i IN 1 .. cardinality(types) LOOP
        SELECT e.* INTO first FROM data_manager.event_store e WHERE e.event_uuid = event_uuids[i];
        IF NOT found AND keys[i] IS NOT NULL THEN
          SELECT e.* INTO first
            FROM data_manager.dama_tasks t JOIN data_manager.event_store e ON e.event_id = t.initial_event_id
            WHERE t.idempotency_key = keys[i];
        END IF;
        created := first.event_id IS NULL;
        suppressed := NULL;
        IF created AND alone[i] IS NOT NULL THEN
          SELECT t.etl_context_id, 'singleton_key' INTO etl_context_id, suppressed FROM data_manager.dama_tasks t
            WHERE t.singleton_key = alone[i] AND t.state NOT IN ('done', 'failed', 'cancelled');
          IF suppressed IS NULL THEN
            etl_context_id := data_manager.throttled_by(
              alone[i], data_manager.duration_seconds(metas[i] #>> '{__dama_task_manager__,throttle}'));
            suppressed := CASE WHEN etl_context_id IS NOT NULL THEN 'throttle' END;
          END IF;
        END IF;

        IF suppressed IS NOT NULL THEN
          created := false;
          wait := data_manager.duration_seconds(metas[i] #>> '{__dama_task_manager__,debounce}');
          IF wait IS NOT NULL AND data_manager.put_off(etl_context_id, wait) THEN
            suppressed := 'debounce';
          END IF;
        ELSIF created THEN
          etl_context_id := (data_manager.begin_tasks(
            parent_context_ids[i:i], source_ids[i:i], types[i:i], payloads[i:i], metas[i:i], event_uuids[i:i]))[1];
        ELSE
          SELECT c.parent_context_id, c.source_id INTO parent, source
            FROM data_manager.etl_contexts c WHERE c.etl_context_id = first.etl_context_id;
          IF (parent, source, first.type, first.payload, data_manager.as_asked(first.meta)) IS DISTINCT FROM
             (parent_context_ids[i], source_ids[i], types[i], payloads[i], data_manager.as_asked(metas[i])) THEN
            IF first.event_uuid = event_uuids[i] THEN
              PERFORM data_manager.refuse('DA004', format('event_uuid %s belongs to another event', event_uuids[i]),
                jsonb_build_object('event_uuid', event_uuids[i], 'etl_context_id', first.etl_context_id));
            END IF;
            PERFORM data_manager.refuse('DA008',
              format('the idempotency_key was used for another task, context %s', first.etl_context_id),
              jsonb_build_object('idempotency_key', keys[i], 'etl_context_id', first.etl_context_id));
          END IF;
          created        := first.event_uuid IS NOT DISTINCT FROM event_uuids[i];
          etl_context_id := first.etl_context_id;
          suppressed     := CASE WHEN NOT created THEN 'idempotency_key' END;
        END IF;
        RETURN NEXT;
      END LOOP;
    END
  $$;
