-- Whether every reader can take a JSON value: no number beyond a double, and no nesting deeper than 128. (damad itself
-- takes 64 and may wrap it: damad/model/json_value.py.) jsonb takes both; 2 kB of 1e131071 read back as 26 MB.
CREATE OR REPLACE FUNCTION data_manager.is_plain(value jsonb)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN value IS NULL OR NOT (
    jsonb_path_exists(value, 'strict $.**{128} ? (@.type() == "object" || @.type() == "array")')
    OR jsonb_path_exists(value, 'strict $.** ? (@.abs() > 1.7976931348623158e308)')
  );
