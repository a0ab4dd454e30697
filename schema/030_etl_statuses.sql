-- The three statuses that the original's clients read.
CREATE TABLE IF NOT EXISTS data_manager.etl_statuses (
  etl_status  text PRIMARY KEY
);

INSERT INTO data_manager.etl_statuses (etl_status)
  VALUES ('OPEN'), ('DONE'), ('ERROR')
  ON CONFLICT DO NOTHING;
