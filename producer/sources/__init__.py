"""Readers of URL lists, one for each format."""
