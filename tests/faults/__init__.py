"""Fault tests: whole runs lose nothing although their real processes are killed, disconnected or starved."""
