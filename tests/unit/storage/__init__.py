"""Tests of `tasks.storage`."""
