"""The settings of imagefleet, its bounds, and the Redis settings that its fleets share."""

VERSION = "0.1.0"
