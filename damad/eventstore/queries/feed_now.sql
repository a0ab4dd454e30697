-- The cluster, its timeline, and what is visible now.
SELECT s.system_identifier AS system_id, c.timeline_id AS timeline, pg_current_snapshot()::text AS snapshot
  FROM pg_control_system() s, pg_control_checkpoint() c
