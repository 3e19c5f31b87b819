"""The settings of imagefleet, its bounds, and the Redis settings that its fleets share."""

VERSION = "0.1.0"


class SettingsError(ValueError):
    """A variable of the environment holds what it cannot hold; the message names it."""
