"""Check the settings, the broker, the workers, the clocks and an output folder."""
