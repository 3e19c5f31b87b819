"""The tests: `unit` needs no services, `integration` uses real servers and workers."""
