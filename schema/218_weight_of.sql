-- How many slots of its queue a task takes while it runs: 1, unless its settings say so many. What does not fit counts as not
-- given, here as in damad/model/settings.py.
CREATE OR REPLACE FUNCTION data_manager.weight_of(settings jsonb)
  RETURNS integer
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN settings ->> 'weight' ~ '^[1-9][0-9]{0,8}$' THEN (settings ->> 'weight')::integer ELSE 1 END;
