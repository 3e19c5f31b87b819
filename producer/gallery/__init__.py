"""Show the images of a run in a browser, from the run's manifests."""
