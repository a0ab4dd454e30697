-- The schema that the original used; every object of damad lives in it.
CREATE SCHEMA IF NOT EXISTS data_manager;
