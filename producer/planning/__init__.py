"""Plan the shards of a run: from a URL list, from a previous run, or once more."""
