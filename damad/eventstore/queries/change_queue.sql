-- Sets what is wanted of a queue, which is made if need be, and wakes the daemons. A null takes back what was set.
-- $1: its name · $2: fields · $3: task settings for tasks that do not say
WITH changed AS (
  INSERT INTO data_manager.dama_queues AS q
      (name, paused, concurrency, global_concurrency, key_concurrency, rate, key_rate, aging, shared, run_in, settings)
    SELECT $1, coalesce(n.paused, false), n.concurrency, n.global_concurrency, n.key_concurrency, n.rate, n.key_rate,
           n.aging, n.shared, n.run_in, jsonb_strip_nulls($3::jsonb)
      FROM jsonb_to_record($2::jsonb) AS n (paused boolean, concurrency integer, global_concurrency integer,
                                            key_concurrency integer, rate text, key_rate text, aging double precision,
                                            shared boolean, run_in text)
    ON CONFLICT (name) DO UPDATE SET
      paused             = CASE WHEN $2 ? 'paused'             THEN excluded.paused             ELSE q.paused END,
      concurrency        = CASE WHEN $2 ? 'concurrency'        THEN excluded.concurrency        ELSE q.concurrency END,
      global_concurrency = CASE WHEN $2 ? 'global_concurrency' THEN excluded.global_concurrency
                                ELSE q.global_concurrency END,
      key_concurrency    = CASE WHEN $2 ? 'key_concurrency'    THEN excluded.key_concurrency    ELSE q.key_concurrency END,
      rate               = CASE WHEN $2 ? 'rate'               THEN excluded.rate               ELSE q.rate END,
      key_rate           = CASE WHEN $2 ? 'key_rate'           THEN excluded.key_rate           ELSE q.key_rate END,
      aging              = CASE WHEN $2 ? 'aging'              THEN excluded.aging              ELSE q.aging END,
      shared             = CASE WHEN $2 ? 'shared'             THEN excluded.shared             ELSE q.shared END,
      run_in             = CASE WHEN $2 ? 'run_in'             THEN excluded.run_in             ELSE q.run_in END,
      settings           = jsonb_strip_nulls(q.settings || $3)
    RETURNING q.name
)
SELECT pg_notify('DAMAD_TASK', '') FROM changed
