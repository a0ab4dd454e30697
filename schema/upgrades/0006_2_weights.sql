-- From version 5 to 6, tasks that weigh more than others: functions that are told more now.
DROP FUNCTION IF EXISTS data_manager.claim_tasks(text[], integer[], boolean[], uuid, text, interval, bigint[]);
DROP FUNCTION IF EXISTS data_manager.claim_within_limits(text, integer, boolean, uuid, text, interval, bigint[], bigint[]);
DO $$
  BEGIN
    IF to_regtype('data_manager.dama_queues') IS NOT NULL THEN
      DROP FUNCTION IF EXISTS data_manager.within_limits(
        data_manager.dama_queues, integer, boolean, uuid, timestamptz, bigint[], bigint[]);
    END IF;
  END
$$;
