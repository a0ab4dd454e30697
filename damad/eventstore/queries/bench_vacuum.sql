-- After a log was filled in one go: it is looked after as one that grew would have been.
VACUUM (ANALYZE)
