-- Removes whole ended trees and returns their contexts. $1: contexts · $2: the versions that were archived
SELECT removed.etl_context_id FROM data_manager.remove_contexts($1, $2) AS removed (etl_context_id)
