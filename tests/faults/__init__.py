"""CommandError tests: whole runs with real processes that are killed, disconnected or starved; they prove nothing is
lost."""
