"""The tests: the folder `unit` needs no services, and the folder `integration` uses real servers and workers."""
