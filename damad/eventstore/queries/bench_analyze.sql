-- After a table was filled in one go: the planner knows it, as it would know one that grew.
ANALYZE
