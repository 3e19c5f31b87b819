"""The tests: `unit` needs nothing, `integration` real servers and workers."""
