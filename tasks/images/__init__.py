"""Identify, decode and resize images, within limits of pixels and memory."""
