"""The command that shows the images of a run in a browser."""

from __future__ import annotations

import click
import cloup

from config.locations import Location
from producer.cli.console import print_note
from producer.cli.examples import epilog
from producer.cli.parameter_types import OutputLocation
from producer.cli.signals import first_signal_calls


@cloup.command(
    short_help="Show the images of a run in a browser.",
    epilog=epilog(
        {
            "Look at the images of a run": "producer gallery images",
            "Use a fixed port, for example for an SSH tunnel": "producer gallery images --port 8766",
        }
    ),
)
@click.argument("out", type=OutputLocation())
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port to listen on, for example for an SSH tunnel.  [default: any free port]",
)
def gallery(out: Location, port: int) -> None:
    """Show the images of the run in OUT in a browser, until Ctrl-C.

    The gallery filters images by status, reason, format, host, file size and dimensions. A click on an image shows its
    manifest row. Only this machine can open the gallery, and only with the printed address.
    """
    from producer.gallery.gallery import Gallery
    from producer.gallery.server import GalleryServer
    from producer.output.folder import existing_run

    server = GalleryServer(Gallery(existing_run(out)), port)
    with first_signal_calls(server.stop):
        click.echo(f"The gallery of {out} is at {server.url}")
        click.echo("Press Ctrl-C to stop it.")
        server.run()
    print_note("The gallery has stopped.", quiet=False)
