-- $1 context, $2 payload.
INSERT INTO public.bench_events (context, type, payload) VALUES ($1, ':UPDATE', $2) RETURNING event_id
