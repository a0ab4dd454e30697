-- The events of several calls, whose contexts whoever asks holds: all of them at once or, where one is refused, call by
-- call, each in a subtransaction of its own. (203_append_each.sql says what it returns.)
-- What is judged when a transaction commits is judged here: a refusal then would take all the others with it.
CREATE OR REPLACE FUNCTION data_manager.append_calls(
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
  AS $$
    #variable_conflict use_column
    DECLARE
      low  integer := 1;
      high   integer;
    BEGIN
      BEGIN
        RETURN QUERY
        SELECT calls[a.place], 'recorded', NULL::text, NULL::text, NULL::text, NULL::text, a.replayed, a.event
          FROM data_manager.append_events(etl_context_ids, types, payloads, metas, errors, event_uuids, fences,
                                          expected_versions) WITH ORDINALITY AS a (replayed, event, place);
        IF 'dama/task:ERROR' = ANY (types) THEN
          SET CONSTRAINTS data_manager.event_store_error_is_concluded IMMEDIATE;
          SET CONSTRAINTS data_manager.event_store_error_is_concluded DEFERRED;
        END IF;
        RETURN;
      EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
          broken = CONSTRAINT_NAME;
        IF calls[1] = calls[cardinality(calls)] THEN
          call := calls[1];
          outcome := 'refused';
          RETURN NEXT;
          RETURN;
        END IF;
      END;

      WHILE low <= cardinality(calls) LOOP
        high := low;
        WHILE calls[high + 1] = calls[low] LOOP
          high := high + 1;
        END LOOP;
        RETURN QUERY
        SELECT * FROM data_manager.append_calls(
          etl_context_ids[low:high], types[low:high], payloads[low:high], metas[low:high], errors[low:high],
          event_uuids[low:high], fences[low:high], expected_versions[low:high], calls[low:high]);
        low := high + 1;
      END LOOP;
    END
  $$;
