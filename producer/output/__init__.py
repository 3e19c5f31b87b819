"""The output folder of a run: its lock, its run.json, and the files of its shards."""
