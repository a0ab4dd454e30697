-- $1 contexts, $2 payloads.
INSERT INTO public.bench_events (context, type, payload)
  SELECT context, ':UPDATE', payload FROM unnest($1::bigint[], $2::jsonb[]) AS given (context, payload)
  RETURNING event_id
