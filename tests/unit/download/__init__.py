"""Tests of `tasks.download`."""
