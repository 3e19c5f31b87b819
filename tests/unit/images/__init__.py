"""Tests of `tasks.images`."""
