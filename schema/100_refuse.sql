-- One way to say no: a SQLSTATE of class DA, which names the problem, and in DETAIL, as JSON, every value that the
-- caller needs to act. damad/eventstore/refusals.py reads both back. It returns nothing, ever: its type lets it stand
-- where a statement would have an id.
--   DA001 illegal-transition   DA002 stale-fence      DA003 version-conflict   DA004 event-uuid-conflict
--   DA005 unknown-context      DA006 append-only      DA007 invalid-input     DA008 idempotency-conflict
--   DA009 unfinished-error     DA010 upgrade-blocked  DA011 singleton-conflict
CREATE OR REPLACE FUNCTION data_manager.refuse(code text, message text, detail jsonb)
  RETURNS bigint
  LANGUAGE plpgsql
  AS $$
    BEGIN
      RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, DETAIL = detail::text;
    END
  $$;
