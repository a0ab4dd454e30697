-- The meta of an event as whoever appended it sent it: without the actor and the trace, which damad's HTTP puts there. Whoever
-- sends the same again may be let in as somebody else by then, and is in another trace. (With one of them, no meta and an
-- empty one are the same.)
CREATE OR REPLACE FUNCTION data_manager.as_sent(meta jsonb)
  RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN jsonb_typeof(meta) = 'object' AND meta ?| '{__dama_actor__,traceparent}'
    THEN nullif(meta - '{__dama_actor__,traceparent}'::text[], '{}')
    ELSE meta
  END;
