-- The cluster, its timeline, what is visible now and the last event of it; and whether the log knows the last event that
-- a cursor has seen: it does not where older files were put back. $1: its id, 0 for none · $2: its event_uuid
-- The timeline is that of the log that is written: the control file hears of a new one only when the first checkpoint
-- after a promotion has ended, minutes later.
SELECT s.system_identifier AS system_id,
       CASE WHEN pg_is_in_recovery() THEN c.timeline_id
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END AS timeline,
       pg_current_snapshot()::text AS snapshot,
       coalesce(newest.event_id, 0) AS last,
       newest.event_uuid,
       $1::bigint = 0 OR EXISTS (
         SELECT FROM data_manager.event_store e WHERE e.event_id = $1 AND e.event_uuid = $2
       ) AS knows
  FROM pg_control_system() s, pg_control_checkpoint() c
    LEFT JOIN (
      SELECT e.event_id, e.event_uuid FROM data_manager.event_store e ORDER BY e.event_id DESC LIMIT 1
    ) AS newest ON true
