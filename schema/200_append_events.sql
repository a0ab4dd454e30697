-- Appends events, one or many, to one context or to many, in the order given. One statement, all or nothing.
-- They are judged and inserted at once; where one may depend on another, or on what is in the log already, one by one.
-- The contexts are locked in the order of their ids, so that two appends cannot wait for each other.
-- An event_uuid is looked at first: the same event again is answered with the row it made (replayed).
-- expected_versions: the context's version before the event, or NULL where the caller does not care.
CREATE OR REPLACE FUNCTION data_manager.append_events(
    etl_context_ids    bigint[],
    types              text[],
    payloads           jsonb[],
    metas              jsonb[],
    errors             boolean[],
    event_uuids        uuid[],
    fences             bigint[],
    expected_versions  bigint[]
  )
  RETURNS TABLE (replayed boolean, event data_manager.event_store)
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    DECLARE
      found_version  bigint;
    BEGIN
      PERFORM FROM data_manager.etl_contexts c
        WHERE c.etl_context_id = ANY (etl_context_ids)
        ORDER BY c.etl_context_id
        FOR NO KEY UPDATE;

      IF (cardinality(etl_context_ids) = 1 AND expected_versions[1] IS NULL OR (
        SELECT bool_and(e.number = 1 OR e.plain) AND count(DISTINCT e.uuid) = count(e.uuid) AND count(e.expected) = 0
          FROM (
            SELECT count(*) OVER same AS number, e.uuid, e.expected,
                   data_manager.event_kind(e.type) IN ('EVENT', 'EVENT_ERROR', 'STEP', 'SUBTASK', 'PROGRESS') AS plain
              FROM unnest(etl_context_ids, types, event_uuids, expected_versions) AS e (id, type, uuid, expected)
              WINDOW same AS (PARTITION BY e.id)
          ) AS e
      )) AND NOT EXISTS (SELECT FROM data_manager.event_store e WHERE e.event_uuid = ANY (event_uuids)) THEN
        RETURN QUERY
        INSERT INTO data_manager.event_store AS e (event_id, etl_context_id, version, event_uuid, type, payload, meta, error,
                                                   fence, txid, _created_timestamp)
          SELECT * FROM data_manager.judge_events(etl_context_ids, types, payloads, metas, errors, event_uuids, fences)
          RETURNING false, e;
        RETURN;
      END IF;

      FOR i IN 1 .. cardinality(etl_context_ids) LOOP
        replayed := false;
        IF event_uuids[i] IS NOT NULL THEN
          SELECT e.* INTO event FROM data_manager.event_store e WHERE e.event_uuid = event_uuids[i];
          replayed := found;
        END IF;

        IF replayed THEN
          IF (event.etl_context_id, event.type, event.payload, data_manager.as_sent(event.meta), event.error) IS DISTINCT FROM
             (etl_context_ids[i], types[i], payloads[i], data_manager.as_sent(metas[i]), errors[i]) THEN
            PERFORM data_manager.refuse('DA004',
              format('event_uuid %s belongs to another event', event_uuids[i]),
              jsonb_build_object('event_uuid', event_uuids[i], 'etl_context_id', event.etl_context_id,
                                 'version', event.version));
          END IF;
        ELSE
          IF expected_versions[i] IS NOT NULL THEN
            SELECT c.version INTO found_version FROM data_manager.etl_contexts c
              WHERE c.etl_context_id = etl_context_ids[i];
            IF found_version <> expected_versions[i] THEN
              PERFORM data_manager.refuse('DA003',
                format('context %s is at version %s, not at %s', etl_context_ids[i], found_version, expected_versions[i]),
                jsonb_build_object('etl_context_id', etl_context_ids[i], 'version', found_version,
                                   'expected_version', expected_versions[i]));
            END IF;
          END IF;
          INSERT INTO data_manager.event_store AS e (etl_context_id, type, payload, meta, error, event_uuid, fence)
            VALUES (etl_context_ids[i], types[i], payloads[i], metas[i], errors[i], event_uuids[i], fences[i])
            RETURNING e.* INTO event;
        END IF;
        RETURN NEXT;
      END LOOP;
    END
  $$;
