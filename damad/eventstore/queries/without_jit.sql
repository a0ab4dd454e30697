-- To compile a statement that takes milliseconds would take longer than to run it.
SET LOCAL jit = off
