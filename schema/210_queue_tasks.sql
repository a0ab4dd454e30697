-- Queues tasks: a context and its :INITIAL for each, in one transaction with whatever else the caller does.
-- An event_uuid or an idempotency_key that was seen before queues nothing and answers with the first one's id
-- unless what was asked for differs: then it is refused.
-- created: the :INITIAL has the event_uuid that was given, so whoever asks made the task, perhaps the first time already.
CREATE OR REPLACE FUNCTION data_manager.queue_tasks(
    parent_context_ids  bigint[],
    source_ids          bigint[],
    types               text[],
    payloads            jsonb[],
    metas               jsonb[],
    event_uuids         uuid[]
  )
  RETURNS TABLE (created boolean, etl_context_id bigint)
  LANGUAGE plpgsql
  AS $$
    DECLARE
      first   data_manager.event_store;
      key     text;
      parent  bigint;
      source  bigint;
    BEGIN
      FOR i IN 1 .. cardinality(types) LOOP
        key := metas[i] -> '__dama_task_manager__' ->> 'idempotency_key';
        SELECT e.* INTO first FROM data_manager.event_store e WHERE e.event_uuid = event_uuids[i];
        IF NOT found AND key IS NOT NULL THEN
          SELECT e.* INTO first
            FROM data_manager.dama_tasks t JOIN data_manager.event_store e ON e.event_id = t.initial_event_id
            WHERE t.idempotency_key = key;
        END IF;
        created := first.event_id IS NULL;

        IF created THEN
          INSERT INTO data_manager.etl_contexts AS c (parent_context_id, source_id)
            VALUES (parent_context_ids[i], source_ids[i])
            RETURNING c.etl_context_id INTO etl_context_id;
          INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta, event_uuid)
            VALUES (queue_tasks.etl_context_id, types[i], payloads[i], metas[i], event_uuids[i]);
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
              jsonb_build_object('idempotency_key', key, 'etl_context_id', first.etl_context_id));
          END IF;
          created        := first.event_uuid IS NOT DISTINCT FROM event_uuids[i];
          etl_context_id := first.etl_context_id;
        END IF;
        RETURN NEXT;
      END LOOP;
    END
  $$;
