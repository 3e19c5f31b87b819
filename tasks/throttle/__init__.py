"""Limit the requests to each host, for the whole fleet."""
