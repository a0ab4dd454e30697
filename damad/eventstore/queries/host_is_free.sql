-- Whether no daemon serves this database as the host $1 now. $2: the seed of the key
SELECT pg_try_advisory_xact_lock(hashtextextended($1::text, $2::bigint)) AS free
