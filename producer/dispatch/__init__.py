"""Send a run's shards to the workers, and watch each until its manifest exists."""
