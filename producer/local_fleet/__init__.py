"""Redis, workers and Flower on this machine, kept running by a supervisor."""
