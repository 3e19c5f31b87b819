"""The output formats of a shard, for tools that read data sets; each shard has a manifest, too."""
