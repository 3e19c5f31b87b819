"""Fault tests: whole runs whose real processes are killed, disconnected or starved, without losing anything."""
