-- What the server says of itself. Its clock, in seconds, is read last before it answers.
SELECT current_setting('server_version') AS version,
       extract(epoch FROM clock_timestamp())::double precision AS clock
