"""The demo image server: pictures drawn from their number, and a route per fault. Imports nothing of the fleet."""

from producer.demo.pictures import draw_image
from producer.demo.server import ROUTES, DemoError, DemoOptions, DemoServer, serve

__all__ = ["ROUTES", "DemoError", "DemoOptions", "DemoServer", "draw_image", "serve"]
