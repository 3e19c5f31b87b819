"""Tests of the real parts together: the commands, Redis, worker processes, web servers."""
