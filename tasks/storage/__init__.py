"""Store a run's files: images, plans and manifests, each atomic and synced to disk."""
