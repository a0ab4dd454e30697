-- What the STARTED events of some runs say. $1: their contexts · $2: their fences
SELECT e.etl_context_id, e.fence, e.payload
  FROM unnest($1::bigint[], $2::bigint[]) AS run (etl_context_id, fence)
    JOIN data_manager.event_store e USING (etl_context_id, fence)
  WHERE e.type = 'dama/task:STARTED'
