-- Claims what may run now, and says of each task what a runner needs to know: assignment.sql's columns.
SELECT * FROM data_manager.claim_tasks($1, $2, $3, $4, $5, $6, $7, $8)
