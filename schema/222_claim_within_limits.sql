-- What a rate like "100/1m" gives in a second.
CREATE OR REPLACE FUNCTION data_manager.tokens_per_second(rate text)
  RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN split_part(rate, '/', 1)::double precision / nullif(data_manager.duration_seconds(split_part(rate, '/', 2)), 0);

-- How many tasks a rate lets begin at a time: a bucket that holds as many as the rate says, is filled again at that rate, and
-- is full at first. left_then: what was left in it at that moment. NULL where there is no rate.
CREATE OR REPLACE FUNCTION data_manager.tokens_of(
    rate text, left_then double precision, then_at timestamptz, moment timestamptz
  )
  RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN least(
    split_part(rate, '/', 1)::double precision,
    left_then + greatest(0, extract(epoch FROM moment - then_at)::double precision) * data_manager.tokens_per_second(rate)
  );

-- How many tasks of a queue its rate lets begin at a time.
CREATE OR REPLACE FUNCTION data_manager.tokens_at(q data_manager.dama_queues, moment timestamptz)
  RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN data_manager.tokens_of(q.rate, q.tokens, q.tokens_at, moment);

-- Seconds until a rate lets the next task begin, where so many may now; NULL where one may.
CREATE OR REPLACE FUNCTION data_manager.next_token(rate text, tokens double precision)
  RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE WHEN tokens < 0.999999 THEN (1 - tokens) / data_manager.tokens_per_second(rate) END;

-- Seconds until the rate of a queue lets the next task begin; NULL where it does now.
CREATE OR REPLACE FUNCTION data_manager.next_token_in(q data_manager.dama_queues, moment timestamptz)
  RETURNS double precision
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN data_manager.next_token(q.rate, data_manager.tokens_at(q, moment));

-- Seconds until the key_rate of a queue lets the next task of some key begin, of which none may now; NULL where there is no
-- such key. Only what was claimed within the time for one token can have left a bucket empty.
CREATE OR REPLACE FUNCTION data_manager.next_key_token_in(q data_manager.dama_queues, moment timestamptz)
  RETURNS double precision
  LANGUAGE sql STABLE
  RETURN (
    SELECT min(data_manager.next_token(q.key_rate, data_manager.tokens_of(q.key_rate, b.tokens, b.tokens_at, moment)))
      FROM data_manager.dama_key_tokens b
      WHERE b.queue = q.name AND b.tokens_at > moment - make_interval(secs => 1 / data_manager.tokens_per_second(q.key_rate))
  );

-- How many tasks of a concurrency_key the key_rate of its queue lets begin at a time. Its bucket is looked up by itself: there
-- may be very many.
CREATE OR REPLACE FUNCTION data_manager.key_tokens_at(q data_manager.dama_queues, key text, moment timestamptz)
  RETURNS double precision
  LANGUAGE sql STABLE
  RETURN coalesce(
    (SELECT data_manager.tokens_of(q.key_rate, b.tokens, b.tokens_at, moment)
       FROM data_manager.dama_key_tokens b
       WHERE b.queue = q.name AND b.key = key_tokens_at.key),
    data_manager.tokens_of(q.key_rate, NULL, NULL, moment)
  );

-- How many more tasks of a concurrency_key may begin, of which so many run; NULL where keys have no limit.
CREATE OR REPLACE FUNCTION data_manager.room_of_key(
    q data_manager.dama_queues, key text, running integer, moment timestamptz
  )
  RETURNS integer
  LANGUAGE sql STABLE
  RETURN least(
    q.key_concurrency - coalesce(running, 0),
    CASE WHEN q.key_rate IS NOT NULL THEN floor(data_manager.key_tokens_at(q, key, moment) + 0.000002)::integer END
  );

-- Whose turn it is, least first: higher priority first or, where the queue has aging, by the time since which a task could
-- run, less its priority times aging. Both waiting and priority are in it, and no clock: it stays as it is while time goes by.
CREATE OR REPLACE FUNCTION data_manager.turn_of(q data_manager.dama_queues, priority integer, run_at timestamptz)
  RETURNS double precision
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN CASE WHEN q.aging IS NULL THEN -priority::double precision
              ELSE extract(epoch FROM run_at)::double precision - priority * q.aging END;

-- The tasks of a queue that may run now within its limits, first those that come first: what `slots` hold, `begins` at most.
-- Whoever calls holds the queue's row, and asks after that: what others claimed before is seen then, and nobody claims
-- meanwhile. As in schema/220 a task takes as many slots as it weighs, none comes past one that waits for more of them, and
-- what weighs more than the whole, here or over all hosts, is passed by.
-- A run that waits for others counts for no limit. Where keys are limited the first thousand are looked at, and where these
-- are not enough, for their keys are full, the first of each other key, found by an index: so nobody waits behind a key that
-- is full, however many wait for it. Only a task without a key is then seen once it is among the first thousand.
-- With aging the first of each priority are looked at, and without it the first of all: both as an index has them in order.
-- only_ids: of these contexts alone, or NULL.
CREATE OR REPLACE FUNCTION data_manager.within_limits(
    q          data_manager.dama_queues,
    slots      integer,
    whole      integer,
    begins     integer,
    shared     boolean,
    host_id    uuid,
    now        timestamptz,
    leave_out  bigint[],
    only_ids   bigint[]
  )
  RETURNS bigint[]
  LANGUAGE plpgsql
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off
  SET enable_bitmapscan = off
  SET jit = off
  AS $$
    DECLARE
      by_key    boolean := num_nonnulls(q.key_concurrency, q.key_rate) > 0;
      heaviest  integer := least(whole, q.global_concurrency);
      ids       bigint[];
    BEGIN
      WITH RECURSIVE held AS MATERIALIZED (
        SELECT t.settings ->> 'concurrency_key' AS key, count(*)::integer AS number,
               sum(data_manager.weight_of(t.settings)) AS weight
          FROM data_manager.dama_tasks t
            LEFT JOIN data_manager.leases l ON l.etl_context_id = t.etl_context_id AND l.fence = t.fence
          WHERE t.state IN ('claimed', 'running', 'cancelling') AND t.queue = q.name AND l.waiting IS NOT TRUE
          GROUP BY 1
      ), room AS MATERIALIZED (
        SELECT free.slots, least(free.slots, begins) AS number
          FROM (
            SELECT greatest(0, least(slots, q.global_concurrency - coalesce(sum(held.weight), 0)))::integer AS slots FROM held
          ) AS free
      ), priorities AS (
        (SELECT t.priority FROM data_manager.dama_tasks t
           WHERE t.state = 'queued' AND t.queue = q.name AND q.aging IS NOT NULL
           ORDER BY t.priority DESC LIMIT 1)
        UNION ALL
        SELECT (SELECT t.priority FROM data_manager.dama_tasks t
                  WHERE t.state = 'queued' AND t.queue = q.name AND t.priority < p.priority
                  ORDER BY t.priority DESC LIMIT 1)
          FROM priorities p WHERE p.priority IS NOT NULL
      ), levels (lowest, highest) AS MATERIALIZED (
        SELECT p.priority, p.priority FROM priorities p WHERE p.priority IS NOT NULL
        UNION ALL
        SELECT -2147483648, 2147483647 WHERE q.aging IS NULL
      ), head AS MATERIALIZED (
        SELECT first.*
          FROM levels, LATERAL (
            SELECT t.etl_context_id, t.priority, t.run_at, t.initial_event_id, t.settings ->> 'concurrency_key' AS key,
                   data_manager.weight_of(t.settings) AS weight
              FROM data_manager.dama_tasks t
              WHERE t.state = 'queued' AND t.queue = q.name AND t.priority BETWEEN levels.lowest AND levels.highest
                AND (within_limits.shared OR t.home_host_id IS NULL OR t.home_host_id = within_limits.host_id)
                AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
                AND t.etl_context_id <> ALL (leave_out)
                AND (only_ids IS NULL OR t.etl_context_id = ANY (only_ids))
                AND (t.start_by IS NULL OR t.start_by > now)
                AND data_manager.weight_of(t.settings) <= heaviest
              ORDER BY t.priority DESC, t.initial_event_id
              LIMIT CASE WHEN (SELECT room.number FROM room) = 0 THEN 0 WHEN by_key THEN 1000 ELSE begins END
          ) AS first
      ), due AS MATERIALIZED (
        SELECT t.etl_context_id, t.priority, t.run_at, t.initial_event_id, t.settings ->> 'concurrency_key' AS key,
               data_manager.weight_of(t.settings) AS weight
          FROM data_manager.dama_tasks t
          WHERE t.state IN ('scheduled', 'retrying') AND t.queue = q.name AND t.run_at <= now
            AND (within_limits.shared OR t.home_host_id IS NULL OR t.home_host_id = within_limits.host_id)
            AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
            AND t.etl_context_id <> ALL (leave_out)
            AND (only_ids IS NULL OR t.etl_context_id = ANY (only_ids))
            AND (t.start_by IS NULL OR t.start_by > now)
            AND data_manager.weight_of(t.settings) <= heaviest
      ), keys AS (
        (SELECT t.settings ->> 'concurrency_key' AS key FROM data_manager.dama_tasks t
           WHERE t.state = 'queued' AND t.queue = q.name AND t.settings ->> 'concurrency_key' IS NOT NULL
             AND by_key
             AND (SELECT count(*) FROM head) >= 1000
             AND (SELECT room.number FROM room) > (
               SELECT sum(CASE WHEN h.key IS NULL THEN h.number
                               ELSE greatest(0, least(h.number, data_manager.room_of_key(q, h.key, held.number, now))) END)
                 FROM (SELECT head.key, count(*) AS number FROM head GROUP BY head.key) AS h
                   LEFT JOIN held ON held.key = h.key
             )
           ORDER BY t.settings ->> 'concurrency_key' LIMIT 1)
        UNION ALL
        SELECT (SELECT t.settings ->> 'concurrency_key' FROM data_manager.dama_tasks t
                  WHERE t.state = 'queued' AND t.queue = q.name AND t.settings ->> 'concurrency_key' > keys.key
                  ORDER BY t.settings ->> 'concurrency_key' LIMIT 1)
          FROM keys WHERE keys.key IS NOT NULL
      ), keyed AS (
        SELECT first.*
          FROM keys LEFT JOIN held ON held.key = keys.key, levels, LATERAL (
            SELECT t.etl_context_id, t.priority, t.run_at, t.initial_event_id, keys.key,
                   data_manager.weight_of(t.settings) AS weight
              FROM data_manager.dama_tasks t
              WHERE t.state = 'queued' AND t.queue = q.name AND t.settings ->> 'concurrency_key' = keys.key
                AND t.priority BETWEEN levels.lowest AND levels.highest
                AND (within_limits.shared OR t.home_host_id IS NULL OR t.home_host_id = within_limits.host_id)
                AND t.etl_context_id <> ALL (ARRAY(SELECT i.etl_context_id FROM data_manager.cancel_intents i))
                AND t.etl_context_id <> ALL (leave_out)
                AND (only_ids IS NULL OR t.etl_context_id = ANY (only_ids))
                AND (t.start_by IS NULL OR t.start_by > now)
                AND data_manager.weight_of(t.settings) <= heaviest
              ORDER BY t.priority DESC, t.initial_event_id
              LIMIT greatest(0, least(begins, data_manager.room_of_key(q, keys.key, held.number, now)))
          ) AS first
          WHERE keys.key IS NOT NULL
      ), ready AS (
        SELECT r.*, row_number() OVER (PARTITION BY r.key ORDER BY r.turn, r.initial_event_id) AS place
          FROM (
            SELECT found.*, data_manager.turn_of(q, found.priority, found.run_at) AS turn
              FROM (SELECT * FROM head UNION SELECT * FROM due UNION SELECT * FROM keyed) AS found
          ) AS r
      ), rooms AS (
        SELECT found.key, data_manager.room_of_key(q, found.key, held.number, now) AS number
          FROM (SELECT DISTINCT ready.key FROM ready WHERE by_key AND ready.key IS NOT NULL) AS found
            LEFT JOIN held ON held.key = found.key
      ), fitting AS (
        SELECT allowed.*
          FROM (
            SELECT r.etl_context_id, r.turn, r.initial_event_id,
                   sum(r.weight) OVER (ORDER BY r.turn, r.initial_event_id) AS taken
              FROM ready r LEFT JOIN rooms ON rooms.key = r.key
              WHERE rooms.key IS NULL OR r.place <= rooms.number
          ) AS allowed
          WHERE allowed.taken <= (SELECT room.slots FROM room)
          ORDER BY allowed.turn, allowed.initial_event_id
          LIMIT (SELECT room.number FROM room)
      )
      SELECT array_agg(f.etl_context_id ORDER BY f.turn, f.initial_event_id) INTO ids FROM fitting f;
      RETURN coalesce(ids, '{}');
    END
  $$;

-- Takes a token of its key's bucket for each of these tasks, which have one, and forgets the buckets that are full again.
-- Whoever calls holds the queue's row, and so all of them.
CREATE OR REPLACE FUNCTION data_manager.take_key_tokens(q data_manager.dama_queues, ids bigint[], moment timestamptz)
  RETURNS void
  LANGUAGE sql
  AS $$
    DELETE FROM data_manager.dama_key_tokens b
      WHERE b.queue = q.name
        AND b.tokens_at <= moment - make_interval(secs => data_manager.duration_seconds(split_part(q.key_rate, '/', 2)));
    INSERT INTO data_manager.dama_key_tokens (queue, key, tokens, tokens_at)
      SELECT q.name, taken.key, data_manager.tokens_of(q.key_rate, b.tokens, b.tokens_at, moment) - taken.number, moment
        FROM (
          SELECT t.settings ->> 'concurrency_key' AS key, count(*) AS number
            FROM data_manager.dama_tasks t
            WHERE t.etl_context_id = ANY (ids) AND t.settings ->> 'concurrency_key' IS NOT NULL
            GROUP BY 1
        ) AS taken LEFT JOIN data_manager.dama_key_tokens b ON b.queue = q.name AND b.key = taken.key
      ON CONFLICT (queue, key) DO UPDATE SET tokens = excluded.tokens, tokens_at = excluded.tokens_at;
  $$;

-- Claims of one queue what may run now on this host within the queue's limits, which count over all hosts: so whoever claims
-- from it holds its row. Where it has aging, by whose turn it is. Else as claim_tasks, which serves the queues with neither.
-- Where somebody holds each task that is chosen, the next ones are; where one can be had, that is enough for now.
CREATE OR REPLACE FUNCTION data_manager.claim_within_limits(
    name       text,
    slots      integer,
    whole      integer,
    shared     boolean,
    host_id    uuid,
    holder     text,
    lease      interval,
    leave_out  bigint[],
    only_ids   bigint[]
  )
  RETURNS TABLE (
    etl_context_id bigint, parent_context_id bigint, queue text, worker text, state text, fence bigint, attempt integer,
    errors integer, crashes integer, settings jsonb, at timestamptz, event_id bigint, version bigint, event_uuid uuid,
    type text, payload jsonb, meta jsonb, error boolean, _created_timestamp timestamptz
  )
  LANGUAGE plpgsql
  SET enable_seqscan = off
  AS $$
    #variable_conflict use_column
    DECLARE
      found      data_manager.dama_queues;
      now        timestamptz;
      remaining  double precision;
      chosen     bigint[];
      claimed    bigint[];
    BEGIN
      SELECT q.* INTO found FROM data_manager.dama_queues q WHERE q.name = claim_within_limits.name FOR UPDATE;
      IF found.name IS NULL OR found.paused THEN
        RETURN;
      END IF;
      now := clock_timestamp();
      remaining := data_manager.tokens_at(found, now);

      LOOP
        chosen := data_manager.within_limits(
          found, slots, whole, least(slots, floor(remaining + 0.000002)::integer), shared, host_id, now, leave_out,
          only_ids);
        SELECT coalesce(array_agg(free.etl_context_id), '{}') INTO claimed FROM (
          SELECT t.etl_context_id
            FROM data_manager.dama_tasks t JOIN data_manager.etl_contexts c USING (etl_context_id)
            WHERE t.etl_context_id = ANY (chosen) AND t.state IN ('queued', 'scheduled', 'retrying')
            ORDER BY array_position(chosen, t.etl_context_id)
            FOR NO KEY UPDATE OF c, t SKIP LOCKED
        ) AS free;
        EXIT WHEN chosen = '{}' OR claimed <> '{}';
        leave_out := leave_out || chosen;
      END LOOP;

      IF claimed <> '{}' THEN
        IF remaining IS NOT NULL THEN
          UPDATE data_manager.dama_queues q SET tokens = remaining - cardinality(claimed), tokens_at = now
            WHERE q.name = found.name;
        END IF;
        IF found.key_rate IS NOT NULL THEN
          PERFORM data_manager.take_key_tokens(found, claimed, now);
        END IF;
        RETURN QUERY SELECT * FROM data_manager.claim_each(claimed, host_id, holder, lease);
      END IF;
    END
  $$;
