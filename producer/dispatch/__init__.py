"""Send a run's shards to the workers, and watch each shard until its manifest exists."""
