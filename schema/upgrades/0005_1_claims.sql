-- From version 4 to 5: a claim only claims, and says so with fewer arguments.
DROP FUNCTION IF EXISTS data_manager.claim_each(bigint[], uuid, text, interval, jsonb);
DROP FUNCTION IF EXISTS data_manager.claim_tasks(text[], integer[], boolean[], uuid, text, interval, jsonb, bigint[]);
