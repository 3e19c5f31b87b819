"""The demo image server: it draws each image from a number, and has a route for each fault.

It imports nothing of the fleet.
"""

from producer.demo.drawing import draw_image
from producer.demo.server import ROUTES, DemoError, DemoOptions, DemoServer, serve

__all__ = ["ROUTES", "DemoError", "DemoOptions", "DemoServer", "draw_image", "serve"]
