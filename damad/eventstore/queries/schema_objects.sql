-- What the schema consists of, object by object: what it is, and what must be done before the files of schema/ make it
-- again. $1: the names that those files make · $2: every word in them. What others have put beside is not ours.
WITH ours AS (
  SELECT c.oid, c.relname, c.relkind, format('data_manager.%I', c.relname) AS called
    FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('data_manager') AND c.relname = ANY ($1::text[])
), columns AS (
  SELECT o.called, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attidentity,
         pg_get_expr(d.adbin, d.adrelid) AS expression
    FROM ours o
      JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE o.relkind = 'r' AND a.attname = ANY ($2::text[])
)
SELECT 1 AS turn, format('column %s.%I', called, attname) AS name, type || ' ' || attidentity::text AS definition,
       format('ALTER TABLE IF EXISTS %s ADD COLUMN IF NOT EXISTS %I %s DEFAULT %s', called, attname, type,
              coalesce(expression, 'NULL')) AS mend
  FROM columns
UNION ALL
SELECT 2, format('NOT NULL of %s.%I', called, attname), '',
       format('ALTER TABLE IF EXISTS %s ALTER %I SET NOT NULL', called, attname)
  FROM columns
  WHERE attnotnull
UNION ALL
SELECT 2, format('default of %s.%I', called, attname), expression,
       format('ALTER TABLE IF EXISTS %s ALTER %I SET DEFAULT %s', called, attname, expression)
  FROM columns
  WHERE expression IS NOT NULL
UNION ALL
-- A foreign key whose triggers are disabled is one that holds nothing. Made again, it looks at every row.
SELECT CASE WHEN c.contype IN ('p', 'u') THEN 3 ELSE 4 END, format('constraint %I of %s', c.conname, o.called),
       pg_get_constraintdef(c.oid) || (SELECT coalesce(string_agg(DISTINCT ' ' || t.tgenabled::text, ''), '')
                                         FROM pg_trigger t WHERE t.tgconstraint = c.oid),
       format('ALTER TABLE IF EXISTS %1$s DROP CONSTRAINT IF EXISTS %2$I, ADD CONSTRAINT %2$I %3$s',
              o.called, c.conname, pg_get_constraintdef(c.oid))
  FROM pg_constraint c JOIN ours o ON o.oid = c.conrelid
  WHERE c.contype IN ('p', 'u', 'f', 'c') AND (c.conname ~ '_(pkey|fkey|key)$' OR c.conname = ANY ($2::text[]))
UNION ALL
SELECT 5, format('index %s', o.called), pg_get_indexdef(o.oid) || ' ' || i.indisvalid::text,
       format('DROP INDEX IF EXISTS %s', o.called)
  FROM ours o JOIN pg_index i ON i.indexrelid = o.oid
UNION ALL
SELECT 6, format('trigger %I of %s', t.tgname, o.called), pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text, NULL
  FROM pg_trigger t JOIN ours o ON o.oid = t.tgrelid
  WHERE NOT t.tgisinternal AND t.tgname = ANY ($1::text[])
UNION ALL
SELECT 6, format('view %s', called), md5(pg_get_viewdef(oid)), NULL
  FROM ours
  WHERE relkind = 'v'
UNION ALL
SELECT 6, format('function %s', p.oid::regprocedure), md5(pg_get_functiondef(p.oid)), NULL
  FROM pg_proc p
  WHERE p.pronamespace = to_regnamespace('data_manager') AND p.proname = ANY ($1::text[]) AND p.prokind = 'f'
ORDER BY 1, 2
