"""The command that lists the hosts of a fleet, and changes their limits during runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click
import cloup

from config import limits
from config.locations import Location
from producer.cli.console import print_note, show
from producer.cli.examples import epilog
from producer.cli.json_result import current_result
from producer.cli.parameter_types import OutputLocation, int_range
from producer.cli.parameters import broker_option, json_option
from producer.runs.preflight import find_broker_url
from tasks.errors import UsageError
from tasks.throttle_options import HostLimit

if TYPE_CHECKING:
    import redis

    from tasks.throttle.hosts import HostState


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a host's limit: a new limit, or none to lift it."""

    host: str
    lift: bool
    concurrency: int | None = None
    rate: float | None = None


@cloup.command(
    short_help="List the hosts of a fleet, and change their limits.",
    epilog=epilog(
        {
            "List the hosts of a run in progress": "producer hosts images",
            "Send a host at most two requests at a time, in all runs": "producer hosts --set a.example --concurrency 2",
            "Lift this limit": "producer hosts --lift a.example",
        }
    ),
)
@click.argument("out", required=False, type=OutputLocation())
@click.option(
    "--limit",
    "most",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Maximum number of hosts to show.",
)
@cloup.option_group(
    "Change a limit",
    click.option("--set", "limited", metavar="HOST", help="Limit this host, with --concurrency, --rate or both."),
    click.option(
        "--concurrency",
        type=int_range(limits.HOST_CONCURRENCY),
        help="With --set: maximum number of open requests to the host.",
    ),
    click.option(
        "--rate",
        type=click.FloatRange(0, min_open=True),
        metavar="NUMBER",
        help="With --set: maximum number of requests to the host per second.",
    ),
    click.option(
        "--lift",
        "lifted",
        metavar="HOST",
        help="Lift the limit of --set for this host. This also ends the host's rest, and restores a reduced limit.",
    ),
)
@broker_option
@json_option
def hosts(
    out: Location | None,
    most: int,
    limited: str | None,
    concurrency: int | None,
    rate: float | None,
    lifted: str | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """List the hosts of a fleet, the worst first: hosts that rest, are given up, are slow, or keep images waiting.

    OUT is the folder of a run in progress. Without OUT, the hosts are those of all runs at the broker. --set and
    --lift change the limit of one host for all runs, at once. A run's own limit still applies if it is lower.
    """
    change = _requested_change(limited, lifted, concurrency, rate)
    url = _broker_url(out, broker)
    from tasks.broker import client as broker_client

    with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
        if change is not None:
            _apply(change, server, as_json)
            return
        _list(server, most, as_json)


def _requested_change(
    limited: str | None, lifted: str | None, concurrency: int | None, rate: float | None
) -> _Change | None:
    """Return the change that the options ask for; None for a list.

    Raises:
        click.UsageError: the options contradict each other.
    """
    has_limit = concurrency is not None or rate is not None
    if limited is not None and lifted is not None:
        raise click.UsageError("--set and --lift can't be used together")
    if has_limit and limited is None:
        raise click.UsageError("--concurrency and --rate need --set HOST")
    if limited is not None and not has_limit:
        raise click.UsageError("--set needs --concurrency, --rate or both")
    if limited is not None:
        return _Change(_host_key(limited), False, concurrency, rate)
    return None if lifted is None else _Change(_host_key(lifted), True)


def _host_key(name: str) -> str:
    return name.strip().lower().rstrip(".")


def _broker_url(out: Location | None, broker: str | None) -> str:
    if out is not None:
        from producer.output.folder import existing_run
        from producer.runs.live_run import find_live_broker

        return find_live_broker(existing_run(out), broker)
    url = find_broker_url(broker)
    if url is None:
        raise UsageError(
            "The fleet is unknown",
            "neither a run's folder nor a broker was given",
            "Add the folder of a run in progress, or --broker, or set IMAGEFLEET_BROKER_URL.",
        )
    return url


def _list(server: redis.Redis, most: int, as_json: bool) -> None:
    from producer.dispatch.host_report import HostReport
    from tasks.throttle.hosts import list_hosts

    reports = sorted(map(HostReport.from_state, list_hosts(server)), key=lambda report: report.urgency)
    if as_json:
        current_result().emit({"hosts": [asdict(report) for report in reports]})
        return
    from producer.cli import render_hosts

    show(render_hosts.render_hosts(reports, most))


def _apply(change: _Change, server: redis.Redis, as_json: bool) -> None:
    from producer.dispatch.host_report import HostReport, describe_limit
    from tasks.throttle.hosts import find_host, lift, list_hosts, set_limit

    before = find_host(server, change.host)
    if before is None:
        raise _unknown_host(change.host, (host.key for host in list_hosts(server)))
    if change.lift:
        lift(server, change.host)
        text = f"{change.host} has no limit of an operator any more, and does not rest. The limits of its runs apply."
    else:
        limit = _new_limit(change, before)
        set_limit(server, change.host, limit)
        text = f"{change.host} is limited to {describe_limit(limit)}, for all runs. Lift it with --lift {change.host}."
    print_note(text, as_json)
    after = find_host(server, change.host)
    facts = None if after is None else asdict(HostReport.from_state(after))
    current_result().emit({"host": facts, "lifted": change.lift})


def _new_limit(change: _Change, before: HostState) -> HostLimit:
    """Return the new limit. A value that was not given stays as an operator has set it, or does not limit the host."""
    old = before.operator_limit or HostLimit(int(limits.HOST_CONCURRENCY.greatest or 1))
    return HostLimit(
        old.concurrency if change.concurrency is None else change.concurrency,
        old.rate if change.rate is None else change.rate,
    )


def _unknown_host(host: str, known: Iterable[str]) -> UsageError:
    close = get_close_matches(host, list(known), n=3, cutoff=0.5)
    todo = "Give the name as `producer hosts` shows it, with the port if it has one."
    return UsageError(
        f"The host {host} is unknown",
        "the fleet has not used a host of this name in the last hour",
        f"{todo} Similar: {', '.join(close)}." if close else todo,
    )
