"""Faults: whole runs over real processes that are killed, cut off and starved, and the proof that nothing is lost."""
