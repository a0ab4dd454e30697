-- The cluster, its timeline, and what is visible now. The timeline is that of the log that is written: the control file
-- hears of a new one only when the first checkpoint after a promotion has ended, minutes later.
SELECT s.system_identifier AS system_id,
       CASE WHEN pg_is_in_recovery() THEN c.timeline_id
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END AS timeline,
       pg_current_snapshot()::text AS snapshot
  FROM pg_control_system() s, pg_control_checkpoint() c
