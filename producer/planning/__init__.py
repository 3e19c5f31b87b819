"""Plan the shards of a run from a URL list, join a previous run, and repair damaged plans."""
