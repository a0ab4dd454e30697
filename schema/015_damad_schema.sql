-- The versions of damad's schema that were applied here, newest last, and the objects that it consisted of then: name,
-- definition and what makes it again. `damad migrate` writes it.
CREATE TABLE IF NOT EXISTS data_manager.damad_schema (
  version     integer     NOT NULL,
  checksum    text        NOT NULL,
  applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

ALTER TABLE data_manager.damad_schema
  ADD COLUMN IF NOT EXISTS objects jsonb;
