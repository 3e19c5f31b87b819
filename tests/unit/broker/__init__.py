"""Tests of `tasks.broker`."""
