-- The least that anything can do whose news must be durable before it is heard. $1: what the listener is told.
WITH inserted AS (
  INSERT INTO public.bench_events (context, type) VALUES (1, ':UPDATE') RETURNING event_id
)
SELECT pg_notify('damad_bench', $1::text) FROM inserted
