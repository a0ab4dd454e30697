-- What a range of contexts look like without their values. One row per context, in order: how many events it has, and
-- its shape, or NULL where something in it wants to be looked at closely.
-- The shape is the course of its events and the words and counts of its projection. It is given only where each value
-- of the projection is what the last event says that could have set it. So of two contexts of one shape the projections
-- of both are the folds of their events, or of neither: damad/eventstore/verify.py folds one of each.
-- In a course: + a time to come · * a crash · = keeps its attempt · ^ under the fence of the claim before it. Events that change no state
-- stand in it where one asks for more than those since the last that did: an EVENT is taken in every state that takes
-- an EVENT^, and that in every state that takes a STEP.
-- Nothing in here may fail on a value that no judge has seen: what cannot be read is looked at closely.
-- $1: after this id · $2: up to this one
WITH logged AS (
  SELECT e.etl_context_id, greatest(0, least(e.version, 4611686018427387903)) AS version, e.event_id, e.type, e.fence,
         e.payload, e._created_timestamp AS created,
         CASE WHEN e.type LIKE '%:INITIAL' AND (e.event_id <= original.up_to_event_id) IS NOT TRUE
           THEN nullif(e.meta -> '__dama_task_manager__', 'null') END AS settings,
         NOT e.legacy
           AND (e.payload IS NULL OR octet_length(e.payload::text) < 256 OR data_manager.is_plain(e.payload))
           AND (e.meta IS NULL OR octet_length(e.meta::text) < 256 OR data_manager.is_plain(e.meta)) AS sound
    FROM data_manager.event_store e
      LEFT JOIN (SELECT max(up_to_event_id) AS up_to_event_id FROM data_manager.original_events) AS original ON true
    WHERE e.etl_context_id > $1 AND e.etl_context_id <= $2
    OFFSET 0  -- what is computed here is computed once
), named AS (
  SELECT e.*, CASE WHEN e.settings IS NULL THEN named.kind ELSE 'TASK_INITIAL' END AS kind,
         CASE WHEN named.kind IN ('PROGRESS', 'STEP', 'SUBTASK') THEN 3
              WHEN named.kind IN ('EVENT', 'EVENT_ERROR') THEN CASE WHEN e.fence IS NULL THEN 1 ELSE 2 END
              WHEN named.kind IN ('INITIAL', 'CLAIMED', 'STARTED', 'ERROR', 'RETRY', 'FAILED', 'RELEASED', 'WAITING',
                                  'RESUMED', 'CANCEL_REQUESTED', 'CANCELLED', 'REQUEUED', 'FINAL') THEN 0 END AS quiet,
         CASE WHEN named.kind = 'CLAIMED' AND e.payload ->> 'fence' ~ '^[0-9]{1,18}$'
           THEN (e.payload ->> 'fence')::bigint END AS claim,
         CASE named.kind WHEN 'INITIAL' THEN e.settings ->> 'start_after'
                         WHEN 'RETRY' THEN e.payload ->> 'run_at'
                         WHEN 'RELEASED' THEN e.payload ->> 'run_at' END AS moment
    FROM logged e, LATERAL (SELECT data_manager.event_kind(e.type) AS kind OFFSET 0) AS named
  OFFSET 0
), timed AS (
  SELECT e.*, CASE
           WHEN e.kind NOT IN ('TASK_INITIAL', 'RETRY', 'RELEASED', 'RESUMED', 'REQUEUED') THEN NULL
           WHEN e.moment IS NULL THEN CASE WHEN e.kind <> 'RETRY' THEN e.created END
           WHEN e.moment > '0002' AND e.moment ~
             '^\d{4}-((0[1-9]|1[0-2])-([01][1-9]|10|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)'  -- a day
             THEN CASE WHEN data_manager.is_moment(e.moment) THEN e.moment::timestamptz END
           WHEN e.kind = 'TASK_INITIAL' AND length(e.moment) < 20
             AND data_manager.duration_seconds(e.moment) BETWEEN 0 AND 3162240000
             THEN e.created + make_interval(secs => data_manager.duration_seconds(e.moment))
         END AS run_at
    FROM named e
), compared AS (
  SELECT c.etl_context_id, e.version, e.quiet, e.fence, e.claim, e.kind = 'CLAIMED' AS claims,
         CASE WHEN e.quiet = 3 THEN 'STEP' WHEN e.quiet > 0 THEN 'EVENT' ELSE e.kind END
           || CASE WHEN e.fence IS NOT NULL AND e.quiet < 3 THEN '^' ELSE '' END
           || CASE WHEN e.kind IN ('TASK_INITIAL', 'RELEASED') AND e.run_at > e.created THEN '+'
                   WHEN e.kind = 'ERROR' AND e.payload ->> 'kind' IN ('exit', 'signal', 'oom', 'lost') THEN '*'
                   ELSE '' END
           || CASE WHEN e.kind = 'RELEASED' AND e.payload -> 'keeps_attempt' = 'true' THEN '=' ELSE '' END AS step,
         CASE WHEN e.version = 1 AND t.state IS NOT NULL THEN
           concat_ws(' ', '', t.state, t.errors, t.crashes, t.resumed, t.pid IS NULL, t.finished_at IS NULL,
                     t.waits_for IS NULL) END AS words,
         e.sound AND CASE e.kind
           WHEN 'INITIAL' THEN c.initial_event_id = e.event_id
           WHEN 'TASK_INITIAL' THEN c.initial_event_id = e.event_id AND t.initial_event_id = e.event_id
             AND t.settings = e.settings AND e.run_at IS NOT NULL
             AND to_jsonb(t.worker) = coalesce(nullif(e.settings -> 'worker', 'null'), e.settings -> 'worker_path')
             AND to_jsonb(t.queue) = coalesce(nullif(e.settings -> 'queue', 'null'), '"default"')
             AND to_jsonb(t.priority) = coalesce(nullif(e.settings -> 'priority', 'null'), '0')
             AND coalesce(to_jsonb(t.idempotency_key), 'null') = coalesce(e.settings -> 'idempotency_key', 'null')
             AND coalesce(to_jsonb(t.home_host_id), 'null') = coalesce(e.settings -> 'dama_host_id', 'null')
             AND coalesce(to_jsonb(t.singleton_key), 'null') = coalesce(e.settings -> 'singleton_key', 'null')
             AND t.start_by IS NULL AND concat(e.settings ->> 'start_by', e.settings ->> 'debounce') = ''
             AND coalesce(to_jsonb(t.schedule), 'null') = coalesce(e.settings -> 'schedule', 'null')
           WHEN 'CLAIMED' THEN e.payload -> 'host_id' = to_jsonb(t.host_id) OR data_manager.is_readable(e.kind, e.payload)
           WHEN 'STARTED' THEN jsonb_typeof(e.payload -> 'attempt') = 'number'
             AND jsonb_typeof(e.payload -> 'pid') = 'number'
           WHEN 'RETRY' THEN e.run_at IS NOT NULL
           WHEN 'RELEASED' THEN e.run_at IS NOT NULL
           WHEN 'WAITING' THEN e.payload IS NULL
           ELSE e.quiet IS NOT NULL END AS sound,
         CASE e.kind WHEN 'TASK_INITIAL' THEN t.fence = 0 AND t.host_id IS NULL
           WHEN 'CLAIMED' THEN t.fence = e.claim
             AND coalesce(to_jsonb(t.host_id), 'null') = coalesce(e.payload -> 'host_id', 'null') END AS claimed,
         CASE e.kind WHEN 'TASK_INITIAL' THEN t.attempt = 0 AND t.started_at IS NULL AND t.pid IS NULL
           WHEN 'STARTED' THEN to_jsonb(t.attempt) = e.payload -> 'attempt'
             AND t.started_at IS NOT DISTINCT FROM e.created AND coalesce(to_jsonb(t.pid) = e.payload -> 'pid', true)
         END AS started,
         CASE e.kind WHEN 'TASK_INITIAL' THEN t.progress IS NULL
           WHEN 'PROGRESS' THEN t.progress IS NOT DISTINCT FROM e.payload END AS progress,
         CASE WHEN e.kind = 'ERROR' THEN t.error IS NOT DISTINCT FROM e.payload
              WHEN e.kind IN ('TASK_INITIAL', 'REQUEUED', 'FINAL') THEN t.error IS NULL END AS error,
         t.run_at = e.run_at AS run_at,
         CASE WHEN e.version IS NULL THEN
                c.version = 0 AND (c.etl_status, c.initial_event_id, c.latest_event_id, t.state) IS NULL
              ELSE c.latest_event_id = e.event_id AND c.version = e.version
                AND c.etl_status = data_manager.etl_status_after(e.type) AND coalesce(t.finished_at = e.created, true)
         END AS latest
    FROM data_manager.etl_contexts c
      LEFT JOIN data_manager.dama_tasks t
        ON t.etl_context_id = c.etl_context_id AND t.etl_context_id > $1 AND t.etl_context_id <= $2
      LEFT JOIN timed e ON e.etl_context_id = c.etl_context_id
    WHERE c.etl_context_id > $1 AND c.etl_context_id <= $2
    OFFSET 0
), placed AS (
  SELECT e.*, coalesce(max(e.claim) OVER before, 0) AS held,
         max(e.version) FILTER (WHERE e.quiet = 0) OVER before AS turned,
         max(e.version) FILTER (WHERE e.quiet >= 1) OVER before AS quiet_1,
         max(e.version) FILTER (WHERE e.quiet >= 2) OVER before AS quiet_2,
         max(e.version) FILTER (WHERE e.quiet >= 3) OVER before AS quiet_3
    FROM compared e
    WINDOW before AS (PARTITION BY e.etl_context_id ORDER BY e.version ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), judged AS (
  SELECT etl_context_id, count(version) AS events,
         string_agg(step, ' ' ORDER BY version)
           FILTER (WHERE quiet = 0 OR turned IS NULL
             OR coalesce(CASE quiet WHEN 1 THEN quiet_1 WHEN 2 THEN quiet_2 ELSE quiet_3 END, 0) < turned) AS course,
         max(words) AS words,
         count(version) = coalesce(max(version), 0) AND coalesce(min(version) = 1, true)
           AND bool_and(version IS NULL OR coalesce(sound AND (NOT claims OR claim > held), false)
             AND (fence IS NULL OR fence = held)) AS sound,
         max(coalesce(version, 0) * 2 + (latest IS TRUE)::int) % 2 = 1
           AND coalesce(max(version * 2 + claimed::int) % 2 = 1, true)
           AND coalesce(max(version * 2 + started::int) % 2 = 1, true)
           AND coalesce(max(version * 2 + progress::int) % 2 = 1, true)
           AND coalesce(max(version * 2 + error::int) % 2 = 1, true)
           AND coalesce(max(version * 2 + run_at::int) % 2 = 1, true) AS agrees
    FROM placed
    GROUP BY etl_context_id
)
SELECT etl_context_id, events,
       CASE WHEN sound AND agrees AND coalesce(length(course), 0) <= 1000 THEN concat(course, words) END AS shape
  FROM judged
  ORDER BY etl_context_id
