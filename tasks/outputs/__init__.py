"""The output formats of a shard, for tools that read data sets. Each shard has a manifest, too."""
