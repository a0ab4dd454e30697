-- What time it is to Postgres, in seconds: what its events' times are compared with.
SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds
