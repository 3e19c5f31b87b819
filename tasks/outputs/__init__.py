"""The output formats of a shard: what tools for data sets read, beside the manifests."""
