-- What a plain event log would be: the yardstick of a bench inserts into it.
CREATE TABLE IF NOT EXISTS public.bench_events (
  event_id  bigserial PRIMARY KEY,
  context   bigint NOT NULL,
  type      text NOT NULL,
  payload   jsonb,
  at        timestamptz NOT NULL DEFAULT now()
)
