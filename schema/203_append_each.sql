-- Appends the events of several calls that know nothing of each other. Each call is all or nothing, and its refusal fails
-- no other one; a call whose context somebody holds is answered with 'busy' and not waited for.
-- calls: the number of the call that each event belongs to; those of one call stand together.
-- Everything is judged at once. Where something in the set is refused, each call is made again by itself.
--   outcome 'recorded'  a row for each event, as append_events returns it
--   outcome 'refused'   one row: what the refusal says, as whoever makes the call alone would be told by Postgres
--   outcome 'busy'      one row
CREATE OR REPLACE FUNCTION data_manager.append_each(
    etl_context_ids    bigint[],
    types              text[],
    payloads           jsonb[],
    metas              jsonb[],
    errors             boolean[],
    event_uuids        uuid[],
    fences             bigint[],
    expected_versions  bigint[],
    calls              integer[]
  )
  RETURNS TABLE (
    call integer, outcome text, code text, message text, detail text, broken text, replayed boolean,
    event data_manager.event_store
  )
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  AS $$
    #variable_conflict use_column
    DECLARE
      free  bigint[];
      busy  integer[];
    BEGIN
      free := ARRAY (
        SELECT c.etl_context_id FROM data_manager.etl_contexts c
          WHERE c.etl_context_id = ANY (etl_context_ids)
          ORDER BY c.etl_context_id
          FOR NO KEY UPDATE SKIP LOCKED
      );
      IF NOT etl_context_ids <@ free THEN
        busy := ARRAY (
          SELECT DISTINCT e.call FROM unnest(etl_context_ids, calls) AS e (id, call)
            WHERE NOT ARRAY[e.id] <@ free
              AND EXISTS (SELECT FROM data_manager.etl_contexts c WHERE c.etl_context_id = e.id)
        );
        RETURN QUERY
        SELECT b.call, 'busy', NULL::text, NULL::text, NULL::text, NULL::text, NULL::boolean, NULL::data_manager.event_store
          FROM unnest(busy) AS b (call);
        RETURN QUERY
        SELECT a.* FROM (
          SELECT array_agg(e.id ORDER BY e.place), array_agg(e.type ORDER BY e.place), array_agg(e.payload ORDER BY e.place),
                 array_agg(e.meta ORDER BY e.place), array_agg(e.error ORDER BY e.place), array_agg(e.uuid ORDER BY e.place),
                 array_agg(e.fence ORDER BY e.place), array_agg(e.expected ORDER BY e.place),
                 array_agg(e.call ORDER BY e.place)
            FROM unnest(etl_context_ids, types, payloads, metas, errors, event_uuids, fences, expected_versions, calls)
              WITH ORDINALITY AS e (id, type, payload, meta, error, uuid, fence, expected, call, place)
            WHERE NOT ARRAY[e.call] <@ busy
        ) AS rest (ids, types, payloads, metas, errors, uuids, fences, expected, calls),
          LATERAL data_manager.append_calls(rest.ids, rest.types, rest.payloads, rest.metas, rest.errors, rest.uuids,
                                           rest.fences, rest.expected, rest.calls) AS a
          WHERE rest.ids IS NOT NULL;
        RETURN;
      END IF;
      RETURN QUERY
      SELECT * FROM data_manager.append_calls(etl_context_ids, types, payloads, metas, errors, event_uuids, fences,
                                             expected_versions, calls);
    END
  $$;
