"""`producer hosts` lists the hosts of a fleet and changes their limits; the report and the doctor name bad hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.dispatch.host_report import HostCondition
from producer.dispatch.host_watch import HostWatch
from producer.doctor import host_checks
from producer.doctor.finding import Level
from tasks.throttle import keys
from tasks.throttle.hosts import find_host
from tasks.throttle.redis_registry import RedisRegistry
from tasks.throttle.registry import Report
from tasks.throttle_options import HostLimit
from tests.integration import processes

_ALLOWED = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1,::1"}


def listed(ended: processes.Completed) -> dict[str, dict[str, Any]]:
    """Return the hosts in the JSON of a command, by name."""
    return {host["host"]: host for host in ended.json()["hosts"]}


def test_hosts_of_a_local_fleet_can_be_listed_and_limited(demo_url: str, out: Path, tmp_path: Path) -> None:
    """during a run with its own fleet, its folder leads to its hosts. An operator limits one and frees one."""
    place = demo_url.removeprefix("http://")
    banned = place.replace("127.0.0.1", "localhost")
    source = tmp_path / "list.txt"
    urls = [f"http://{banned}/fault/rate-limited?after=600&image={index}" for index in range(2)]
    urls += [f"{demo_url}/images/{index}.png?latency=0.5" for index in range(9000, 9200)]
    source.write_text("\n".join(urls))
    options = ("--workers", "1", "--concurrency", "8", "--per-host-concurrency", "2", "--retries", "0")
    argv = processes.command(["run", source, "--out", out, *options])
    with processes.started("run", argv, tmp_path, _ALLOWED) as running:
        processes.eventually((out / "run.json").exists, "the run")

        def found() -> dict[str, dict[str, Any]]:
            return listed(processes.producer("hosts", out, "--json"))

        def both_hosts() -> dict[str, dict[str, Any]]:
            hosts = found()
            return hosts if len(hosts) == 2 and hosts[place]["parked"] > 100 else {}

        both = processes.eventually(both_hosts, "both hosts")
        assert [both[banned]["condition"], both[place]["condition"]] == ["given up", "full"]
        assert both[place]["limit"] == 2
        assert both[place]["open"] <= 2
        shown = processes.producer("hosts", out, "--limit", "1")
        assert "next probe in 10 min" in shown.out
        assert "2 hosts: 1 given up, 1 full. Not shown: 1 host; see --limit and --json." in shown.out
        limited = processes.producer("hosts", out, "--set", place, "--concurrency", "1", "--json").json()
        assert limited["host"]["limit"] == 1
        assert processes.producer("hosts", out, "--lift", banned).code == 0
        freed = found()
        assert (freed[banned]["condition"], freed[banned]["resting"], freed[place]["limit"]) == ("idle", 0.0, 1)
        unknown = processes.producer("hosts", out, "--set", place[:-1], "--rate", "1", "--json")
        assert unknown.code == 2
        assert f"Similar: {place}" in processes.error_parts(unknown)[2]
        processes.eventually(lambda: f"images wait for {place}" in running.err, "the line about waiting images")
        assert processes.producer("cancel", out).code == 0
    over = processes.producer("hosts", out)
    assert over.code == 2
    what, why, todo = processes.error_parts(over)
    assert (what, why) == (f"The run in {out} is over", "its state is cancelled, and no producer works on it")
    assert f"producer resume {out}" in todo


def test_report_names_the_hosts_that_were_given_up(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """The report, its JSON and run.json name a host that refuses requests. The report says how to retry its images."""
    banned = demo_url.removeprefix("http://").replace("127.0.0.1", "localhost")
    source = tmp_path / "list.txt"
    source.write_text(f"http://{banned}/fault/rate-limited?after=600&image=0\n{demo_url}/images/9300.png")
    arguments = ("--out", out, "--broker", fleet, "--retries", "0", "--json")
    first = processes.producer("run", source, *arguments).json()
    assert [(host["host"], host["condition"], host["refused"]) for host in first["hosts"]] == [(banned, "given up", 1)]
    assert json.loads((out / "run.json").read_text())["totals"]["hosts"] == first["hosts"]
    assert "given up: it refused requests (429 or 503), 1 rest in a row" in processes.producer("resume", out).out
    again = processes.producer("retry", out, "--broker", fleet, "--reason", "rate_limited")
    assert "host_resting" in again.out
    assert f"retry later with `producer retry {out}`" in again.out
    assert listed(processes.producer("hosts", "--broker", fleet, "--json"))[banned]["condition"] == "given up"
    over = processes.error_parts(processes.producer("hosts", out))
    assert f"producer status {out}" in over[2]
    assert f"--broker {fleet}" in over[2]


def test_hosts_without_a_fleet_is_an_error(tmp_path: Path) -> None:
    """The error names what is missing: a fleet, a running Redis, or a run."""
    nothing, unreachable, no_run = (
        processes.producer("hosts", *arguments, "--json")
        for arguments in ((), ("--broker", f"redis://127.0.0.1:{processes.free_port()}"), (tmp_path,))
    )
    assert (nothing.code, unreachable.code, no_run.code) == (2, 1, 2)
    assert processes.error_parts(nothing)[0] == "The fleet is unknown"
    assert "can't be reached" in processes.error_parts(unreachable)[0]
    assert "holds no run" in processes.error_parts(no_run)[0]


@pytest.fixture
def registry(server: redis.Redis) -> RedisRegistry:
    """Give a registry in an empty Redis."""
    made = RedisRegistry(server)
    made.prepare()
    return made


def test_report_covers_hosts_with_trouble_during_the_run(server: redis.Redis, registry: RedisRegistry) -> None:
    """Hosts with trouble only before the run are left out. At most five hosts are named, the worst first."""
    for name in ("old", "older", "a", "b", "c", "d", "e", "f", "good"):
        registry.acquire(name, HostLimit(), "one", 1, True)
        registry.report(name, "one", Report(ok=1, latency=0.1), True)
    for name in ("old", "older"):
        # One of them works again, and the limit of the other one is still reduced.
        registry.report(name, "one", Report(slow=1), True)
        server.hset(keys.host(name), "reduced", "1000")
    server.hdel(keys.host("old"), "adaptive")
    watch = HostWatch(server)
    watch.start()
    for name in "abcde":
        registry.report(name, "one", Report(slow=1), True)
    registry.report("f", "one", Report(refused=True, retry_after=900), True)
    found = watch.troubled_hosts()
    assert (found[0].host, found[0].condition) == ("f", HostCondition.GIVEN_UP)
    assert [host.condition for host in found[1:]] == [HostCondition.REDUCED] * 4


def test_busiest_host_has_the_most_parked_tasks(server: redis.Redis) -> None:
    """The host with the most parked tasks is found, and the number of hosts with parked tasks."""
    watch = HostWatch(server)
    for host, tasks in (("a", 2), ("b", 5)):
        server.lpush(keys.parked(host), *range(tasks))
        server.sadd(keys.PARKED_HOSTS, host)
    watch.refresh(has_parked=True)
    assert (watch.busiest, watch.busy) == ("b", 2)
    watch.refresh(has_parked=False)
    assert (watch.busiest, watch.busy) == ("", 0)


def test_doctor_finds_a_fleet_that_waits_for_one_host(server: redis.Redis, registry: RedisRegistry) -> None:
    """The doctor reports a host that holds all slots, and a host that most images wait for."""
    (unused,) = host_checks.host_findings(host_checks.measure_hosts(server), 4)
    assert (unused.level, unused.found) == (Level.OK, "no host was used in the last hour")
    registry.acquire("a.example", HostLimit(4), "one", 4, True)
    registry.acquire("b.example", HostLimit(4), "one", 1, True)
    (fine,) = host_checks.host_findings(host_checks.measure_hosts(server), 8)
    assert (fine.level, fine.found) == (Level.OK, "2 hosts in the last hour: 2 works")
    server.lpush(keys.parked("b.example"), *range(20))
    findings = host_checks.host_findings(host_checks.measure_hosts(server), 4)
    assert [(finding.name, finding.level) for finding in findings] == [("slots", Level.WARN), ("hosts", Level.WARN)]
    assert findings[0].found == "all 4 slots of the fleet wait for a.example"
    assert findings[1].found == "20 of 20 waiting images wait for b.example (full; its limit is reached)"


def test_limited_host_stays_listed(server: redis.Redis) -> None:
    """A limit of an operator can be found even if the host's state has expired."""
    server.hset(keys.HOST_LIMITS, "a.example", '{"concurrency": 2, "rate": 3.0}')
    state = find_host(server, "a.example")
    assert state is not None
    assert (state.operator_limit, state.open_limit, state.rate) == (HostLimit(2, 3.0), None, 3.0)
    assert find_host(server, "b.example") is None
