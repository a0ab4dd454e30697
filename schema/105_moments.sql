-- Times and durations in the log, read the same way by the database and by damad/model/lifecycle.py, whatever the
-- session's DateStyle and TimeZone: RFC 3339 with an offset, and the durations of damad/units.py.
CREATE OR REPLACE FUNCTION data_manager.is_moment(moment text)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN moment ~ ('^\d{4}-\d\d-\d\d[Tt ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?'
                   '([Zz]|[+-](0\d|1[0-4]):?[0-5]\d)$');

-- The seconds of a duration like 250ms, 30s, 10m, 2h, 1d or 90; NULL for what is none.
CREATE OR REPLACE FUNCTION data_manager.duration_seconds(duration text)
  RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN (regexp_match(duration, '^\s*(\d+(?:\.\d+)?)\s*(?:ms|s|m|h|d)?\s*$'))[1]::double precision
         * CASE substring(duration FROM '(ms|s|m|h|d)\s*$')
             WHEN 'ms' THEN 0.001::double precision WHEN 'm' THEN 60 WHEN 'h' THEN 3600 WHEN 'd' THEN 86400 ELSE 1 END;

-- The time that a moment names. Refused where there is none (a 31st of February), or where it is one that not every
-- reader can take to another zone.
CREATE OR REPLACE FUNCTION data_manager.moment(given text)
  RETURNS timestamptz
  LANGUAGE plpgsql STABLE
  AS $$
    DECLARE
      found  timestamptz;
    BEGIN
      found := given::timestamptz;
      IF found IS NULL OR extract(year FROM found AT TIME ZONE 'UTC') BETWEEN 2 AND 9998 THEN
        RETURN found;
      END IF;
      PERFORM data_manager.refuse('DA007', format('%s is not within the years 2 to 9998', given), '{}');
    EXCEPTION
      WHEN data_exception THEN
        PERFORM data_manager.refuse('DA007', format('there is no time %s', given), '{}');
    END
  $$;

-- The time that a setting names, or so long after the task was queued. (Called, for few tasks have one: schema/107.)
CREATE OR REPLACE FUNCTION data_manager.moment_or_after(given text, created timestamptz)
  RETURNS timestamptz
  LANGUAGE plpgsql STABLE
  AS $$
    BEGIN
      RETURN CASE WHEN data_manager.is_moment(given) THEN data_manager.moment(given)
                  ELSE created + make_interval(secs => data_manager.duration_seconds(given)) END;
    END
  $$;
