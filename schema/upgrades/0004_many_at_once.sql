-- From version 3 to 4: events are judged many at once. These functions have another result now, or are no more.
DROP FUNCTION IF EXISTS data_manager.refuse(text, text, jsonb);
DROP FUNCTION IF EXISTS data_manager.announce_event(bigint, text, text);
DROP FUNCTION IF EXISTS data_manager.judge_settings(jsonb);
DROP FUNCTION IF EXISTS data_manager.new_task(data_manager.event_store);
DROP FUNCTION IF EXISTS data_manager.evolve_task(data_manager.dama_tasks, data_manager.event_store, text, text);
DROP FUNCTION IF EXISTS data_manager.store_task(data_manager.dama_tasks);

-- Keys that the judge asks, or that an event cannot break (schema/050).
ALTER TABLE data_manager.event_store DROP CONSTRAINT IF EXISTS event_store_etl_context_id_fkey;
ALTER TABLE data_manager.dama_tasks DROP CONSTRAINT IF EXISTS dama_tasks_etl_context_id_fkey;
ALTER TABLE data_manager.leases DROP CONSTRAINT IF EXISTS leases_etl_context_id_fkey;
ALTER TABLE data_manager.etl_contexts DROP CONSTRAINT IF EXISTS etl_contexts_etl_status_fkey;

-- Functions that take and return more now.
DROP FUNCTION IF EXISTS data_manager.claim_each(bigint[], uuid, text, interval);
DROP FUNCTION IF EXISTS data_manager.claim_tasks(text, integer, boolean, uuid, text, interval, bigint[]);
