-- Whether a DELETE that is going on is the one that is allowed: by remove_contexts (schema/240), which sets damad.removes
-- for as long as it runs, and by who owns the log. Setting it by hand is of no use to anybody else; who owns the log could
-- drop the triggers too.
CREATE OR REPLACE FUNCTION data_manager.may_remove()
  RETURNS boolean
  LANGUAGE sql
  STABLE
  AS $$
    SELECT coalesce(current_setting('damad.removes', true), '') = 'yes'
       AND (SELECT pg_has_role(current_user, c.relowner, 'USAGE')
              FROM pg_class c WHERE c.oid = 'data_manager.event_store'::regclass)
  $$;
