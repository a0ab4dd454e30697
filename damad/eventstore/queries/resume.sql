-- Queues again what has waited long enough. $1: this host · $2: the queues that are shared · $3: of these tasks alone, or
-- NULL · $4: contexts that are left out
SELECT data_manager.resume_tasks($1, $2, $3, $4) AS ids
