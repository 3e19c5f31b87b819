"""Begin, resume, retry and cancel a run."""
