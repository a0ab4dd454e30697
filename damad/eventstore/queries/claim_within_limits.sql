-- Claims of one queue what may run now within its limits: assignment.sql's columns.
SELECT * FROM data_manager.claim_within_limits($1, $2, $3, $4, $5, $6, $7, $8, $9)
