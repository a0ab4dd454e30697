-- Serves this database as the host $1 for as long as this session lasts; false where another does. $2: the seed of the key
SELECT pg_try_advisory_lock(hashtextextended($1::text, $2::bigint)) AS held
