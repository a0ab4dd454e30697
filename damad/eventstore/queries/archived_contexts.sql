-- Contexts as lines of an archive, in the order given. $1: of these contexts
SELECT jsonb_build_object('context', to_jsonb(c))::text AS line
  FROM unnest($1::bigint[]) WITH ORDINALITY AS given (id, place)
    JOIN data_manager.etl_contexts c ON c.etl_context_id = given.id
  ORDER BY given.place
