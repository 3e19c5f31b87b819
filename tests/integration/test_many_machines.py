"""Workers and a producer that are not on Redis's machine: TLS, a user with minimal permissions, other versions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, Signature
from celery.backends.redis import RedisBackend
from kombu.connection import Connection

from config.settings import Settings
from tasks.broker import client as broker_client
from tasks.broker import keys, transport
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE, IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE, app
from tests.conftest import installed, redis_program
from tests.integration import processes
from tests.integration.test_transport import consuming, drain, put

_SEPARATOR = "\x06\x16"


@dataclass(frozen=True)
class Site:
    """A Redis that is set up as in docs/many-machines.md, and the files that an operator of workers has."""

    folder: Path
    port: int
    store_root: Path
    admin: Any

    @property
    def password(self) -> str:
        """Return the password, which no output may show."""
        return (self.folder / "imagefleet-password").read_text().strip()

    def env(self, **changes: str) -> dict[str, str]:
        """Return the environment of a worker, of Flower or of the producer."""
        variables = {
            "BROKER_URL": f"rediss://imagefleet@127.0.0.1:{self.port}/0",
            "BROKER_PASSWORD_FILE": str(self.folder / "imagefleet-password"),
            "BROKER_CA_FILE": str(self.folder / "ca.pem"),
            "STORE_ROOTS": str(self.store_root),
            "ALLOW_NETWORKS": "127.0.0.1",
            **changes,
        }
        return {f"IMAGEFLEET_{name}": value for name, value in variables.items() if value}

    def url(self, **changes: Any) -> str:
        """Return the complete broker URL, as Celery gets it."""
        values = {
            "broker_url": f"rediss://imagefleet@127.0.0.1:{self.port}/0",
            "broker_password_file": self.folder / "imagefleet-password",
            "broker_ca_file": self.folder / "ca.pem",
            **changes,
        }
        return Settings(**values).broker or ""

    @contextmanager
    def worker(self, name: str, env: Mapping[str, str] | None = None, cwd: Path = processes.ROOT) -> Iterator[Any]:
        """Start a worker by the plain Celery command, and yield the worker when it is ready."""
        argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-n", f"{name}@%h", "-l", "INFO"]
        with processes.started(name, argv, self.folder, env or self.env(), cwd) as process:
            processes.eventually(lambda: f"{name}@" in process.err and " ready." in process.err, f"the worker {name}")
            yield process

    def celery(self, *arguments: str) -> str:
        """Run a Celery command to its end, and return its output."""
        argv = [sys.executable, "-m", "celery", "-A", "tasks", *arguments]
        env = processes.environment(self.env())
        return subprocess.run(argv, env=env, cwd=processes.ROOT, capture_output=True, text=True, check=True).stdout


@contextmanager
def site_at(folder: Path, store_root: Path) -> Iterator[Site]:
    """Give a Redis on loopback, set up as in docs/many-machines.md."""
    port = processes.free_port()
    processes.set_up_redis(folder, "IP:127.0.0.1")
    with redis_with_tls(folder, port), client(port, folder, "admin") as admin:

        def answers() -> bool:
            with suppress(redis.ConnectionError):
                return bool(admin.ping())
            return False

        processes.eventually(answers, "Redis")
        yield Site(folder, port, store_root, admin)


@contextmanager
def redis_with_tls(folder: Path, port: int) -> Iterator[None]:
    """Start Redis with TLS at a port. For the Redis of the Python package, which has no TLS, a proxy accepts TLS."""
    program = installed("redis-server")
    if program is None:
        files = (folder / "redis-cert.pem", folder / "redis-key.pem")
        with (
            processes.redis_server(folder, "--aclfile", str(folder / "users.acl")) as plain,
            processes.tls_proxy(folder, plain, *files, port),
        ):
            yield
        return
    conf = folder / "redis-tls.conf"
    conf.write_text(conf.read_text().replace("/etc/imagefleet", str(folder)))
    argv = [program, str(folder / "redis.conf"), "--include", str(conf), "--dir", str(folder)]
    argv += ["--bind", "127.0.0.1", "--tls-port", str(port)]
    with processes.started("redis", argv, folder) as server:
        processes.eventually(lambda: processes.listens(server, port), "Redis")
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Iterator[Site]:
    """Give a site for all tests."""
    with site_at(tmp_path_factory.mktemp("site"), store_root) as found:
        yield found


@pytest.fixture
def site_without_workers(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Iterator[Site]:
    """Give a site without workers. At the end, make sure that the site's Redis denied nothing."""
    with site_at(tmp_path_factory.mktemp("site"), store_root) as found:
        yield found
        assert found.admin.acl_log() == []


def client(port: int, folder: Path, user: str | None) -> Any:
    """Return a client of a site's Redis; the caller closes it."""
    login = {"username": user, "password": (folder / f"{user}-password").read_text().strip()} if user else {}
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={folder}/ca.pem"
    return redis.Redis.from_url(url, decode_responses=True, **login)


@pytest.fixture
def nothing_denied(site: Site) -> Iterator[None]:
    """Fail a test if Redis denied anything to any user."""
    site.admin.acl_log_reset()
    yield
    assert site.admin.acl_log() == []


@pytest.fixture(scope="module")
def workers(site: Site) -> Iterator[None]:
    """Run two workers."""
    with site.worker("first"), site.worker("second"):
        yield


# Allowed operations over TLS


@pytest.mark.usefixtures("workers", "nothing_denied")
def test_run_over_tls(site: Site, out: Path, demo_url: str) -> None:
    """A producer and two workers complete a run.

    The only remaining keys of the run are keys that Celery keeps for late copies.
    """
    urls = "".join(f"{demo_url}/images/{index}.jpg\n" for index in range(250))
    ran = processes.producer(
        "run", "-", "--out", out, "--shard-size", "100", "--json", env=site.env(), stdin=urls.encode()
    )
    facts = ran.json()
    assert (facts["total"], facts["success"], facts["shards"], facts["workers"]) == (250, 250, 3, 2)
    assert len(processes.image_files(out)) == 250
    assert not [key for key in site.admin.keys("imagefleet:*") if facts["run_id"] in key]
    assert {name.partition(facts["run_id"])[2] for name in site.admin.keys("celery-taskset-meta-*")} == {
        f".0000{shard}.c" for shard in range(3)
    }


@pytest.mark.usefixtures("workers", "nothing_denied")
def test_retry_later_over_tls(site: Site, out: Path, demo_url: str) -> None:
    """The permissions let a worker send a task again after an image server asked for a wait."""
    url = f"{demo_url}/fault/rate-limited-once?after=1&many-machines"
    ran = processes.producer(
        "run", "-", "--out", out, "--max-retry-after", "0", "--json", env=site.env(), stdin=url.encode()
    )
    assert ran.json()["success"] == 1
    assert [row["attempts"] for row in processes.rows(out)] == [2]


@pytest.mark.slow
@pytest.mark.usefixtures("workers", "nothing_denied")
def test_remote_control_and_flower(site: Site, tmp_path: Path) -> None:
    """Workers answer inspect commands, and Flower sees them and the lengths of the queues."""
    assert site.celery("inspect", "ping").count("pong") == 2
    assert site.celery("status").count(": OK") == 2
    assert all(json.loads(site.celery("inspect", name, "--json")) for name in ("stats", "active_queues"))
    (tmp_path / "flower-password").write_text("word")
    port = processes.free_port()
    env = site.env(FLOWER_PASSWORD_FILE=str(tmp_path / "flower-password"))
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "flower", "--conf=config/flower.py"]
    with processes.started("flower", [*argv, "--address=127.0.0.1", f"--port={port}"], tmp_path, env) as flower:

        def get(path: str) -> Any:
            login = {"Authorization": f"Basic {b64encode(b'imagefleet:word').decode()}"}
            with suppress(OSError):
                request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=login)
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.read().decode()
            return None

        processes.eventually(
            lambda: len(json.loads(get("/api/workers?refresh=1") or "{}")) == 2, "both workers in Flower"
        )
        queues = json.loads(get("/api/queues/length") or "{}").get("active_queues", [])
        assert {queue["name"] for queue in queues} >= {IMAGE_QUEUE, SHARD_QUEUE}, flower.err
        assert IMAGE_QUEUE in get("/broker")


@pytest.mark.usefixtures("workers", "nothing_denied")
def test_failing_chord(site: Site) -> None:
    """The permissions also suffice for Celery if a chord part raises an exception and the shard can't be collected."""
    with sending(site) as send:
        body = Signature(COLLECT_SHARD, kwargs={"run_id": "odd", "shard": 0}, options={"task_id": "odd.collect"})
        site.admin.set("celery-taskset-meta-odd.s", 1)
        chord = {"group_id": "odd", "group_index": 0, "chord": dict(body)}
        send(
            FETCH_IMAGE,
            args=("more",) * 20,  # more than it takes
            task_id="odd.0",
            ignore_result=True,
            **chord,
        )
    processes.eventually(lambda: site.admin.exists("celery-task-meta-odd.collect"), "the end of the chord")
    site.admin.delete(*site.admin.keys("celery-task*-meta-odd*"))


@pytest.mark.slow
def test_stopped_worker_requeues_its_tasks(
    site_without_workers: Site, tmp_path: Path, out: Path, demo_url: str
) -> None:
    """A stopped worker finishes its current downloads and requeues its other tasks at once. The run continues."""
    site = site_without_workers
    (tmp_path / "list").write_text("".join(f"{demo_url}/images/{index}.jpg?latency=2\n" for index in range(50)))
    argv = processes.command(["run", tmp_path / "list", "--out", out, "--json"])
    with processes.started("run", argv, tmp_path, site.env()) as run:
        # A worker with room for fewer than a quarter of its messages takes no more, so 32 must be in the queue.
        processes.eventually(lambda: site.admin.llen(IMAGE_QUEUE) == 50, "tasks")
        with site.worker("stopped") as worker:
            processes.eventually(lambda: processes.unacked_count(site.admin) == 32, "its unacknowledged tasks")
            worker.process.terminate()
            ended = worker.wait()
        assert (ended.code, site.admin.llen(IMAGE_QUEUE), processes.unacked_count(site.admin)) == (0, 50 - 16, 0), (
            ended.err
        )
        assert "NOPERM" not in ended.err
        assert site.password not in ended.out + ended.err
        assert not [key for key in site.admin.keys("*") if "stopped@" in key]
        with site.worker("next"):
            assert run.wait().json()["success"] == 50
    assert {row["attempts"] for row in processes.rows(out)} == {1}


@pytest.mark.usefixtures("nothing_denied")
def test_transport_over_tls(site: Site) -> None:
    """Over TLS, the transport takes messages in batches, delivers each message once, and leaves nothing behind."""
    transport.install()
    queue, found = "imagefleet.transport-test", []
    put(site.url(), queue, 100)

    def take(body: Any, message: Any) -> None:
        found.append(body["n"])
        message.ack()

    with consuming(site.url(), [queue], 10, take) as connection:
        assert type(connection.transport) is transport.Transport
        drain(connection, lambda: len(found) == 100)
    assert found == list(range(100))
    assert not site.admin.exists("unacked", "unacked_index", queue)


# Refused operations


def other_ca(folder: Path) -> Path:
    """Create a CA that signed none of the site's certificates."""
    processes.set_up_redis(folder, "IP:127.0.0.1")
    return folder / "ca.pem"


_FAULTS: dict[str, tuple[int, Any, str, str]] = {
    "another CA": (
        1,
        lambda _, folder: {"BROKER_CA_FILE": str(other_ca(folder))},
        "certificate verify failed",
        "IMAGEFLEET_BROKER_CA_FILE",
    ),
    "certificate of another host": (
        1,
        lambda site, _: {"BROKER_URL": f"rediss://imagefleet@localhost:{site.port}/0"},
        "certificate is not valid for 'localhost'",
        "certificate for this host name",
    ),
    "no CA": (
        1,
        lambda site, _: {
            "BROKER_URL": f"rediss://imagefleet@127.0.0.1:{site.port}/0?ssl_cert_reqs=required",
            "BROKER_CA_FILE": "",
        },
        "certificate verify failed",
        "IMAGEFLEET_BROKER_CA_FILE",
    ),
    "missing CA file": (
        2,
        lambda _, folder: {"BROKER_CA_FILE": str(folder / "nowhere.pem")},
        "nowhere.pem does not exist",
        "IMAGEFLEET_BROKER_CA_FILE",
    ),
    "CA file without certificates": (
        1,
        lambda site, _: {"BROKER_CA_FILE": str(site.folder / "names")},
        "no certificate",
        "IMAGEFLEET_BROKER_CA_FILE",
    ),
    "wrong password": (
        1,
        lambda site, _: {"BROKER_PASSWORD_FILE": str(site.folder / "ca.pem")},
        "invalid username-password pair",
        "password",
    ),
    "no password": (1, lambda *_: {"BROKER_PASSWORD_FILE": ""}, "invalid username-password pair", "password"),
    "plain text": (
        1,
        lambda site, _: {"BROKER_URL": f"redis://imagefleet@127.0.0.1:{site.port}/0", "BROKER_CA_FILE": ""},
        "",
        "rediss:// for a server with TLS",
    ),
    "CA for plain text": (
        2,
        lambda site, _: {"BROKER_URL": f"redis://imagefleet@127.0.0.1:{site.port}/0"},
        "IMAGEFLEET_BROKER_URL is not a rediss:// URL",
        "docs/settings.md",
    ),
    "TLS without verification": (
        2,
        lambda site, _: {"BROKER_URL": f"rediss://imagefleet@127.0.0.1:{site.port}/0", "BROKER_CA_FILE": ""},
        "without ssl_cert_reqs=required",
        "ssl_cert_reqs=required",
    ),
    "certificate check off": (
        2,
        lambda site, _: {"BROKER_URL": f"rediss://imagefleet@127.0.0.1:{site.port}/0?ssl_cert_reqs=none"},
        "without ssl_cert_reqs=required",
        "ssl_cert_reqs=required",
    ),
    "host name check off": (
        2,
        lambda site, _: {"BROKER_URL": f"rediss://imagefleet@localhost:{site.port}/0?ssl_check_hostname=false"},
        "any other host's certificate is accepted",
        "Remove ssl_check_hostname",
    ),
}


@pytest.mark.parametrize(("code", "changes", "why", "todo"), _FAULTS.values(), ids=_FAULTS)
def test_unusable_broker_ends_the_producer(
    site: Site, tmp_path: Path, out: Path, code: int, changes: Any, why: str, todo: str
) -> None:
    """If the broker is unusable, the producer ends with a reason and advice. The password is not shown."""
    env = site.env(**changes(site, tmp_path))
    ended = processes.producer("run", "-", "--out", out, env=env, stdin=b"http://127.0.0.1/\n")
    _, why_shown, todo_shown = processes.error_parts(ended)
    assert ended.code == code
    assert why in why_shown
    assert todo in todo_shown
    assert site.password not in ended.err


@pytest.mark.parametrize("wrong", ["CA", "host"])
def test_celery_verifies_the_server_too(site: Site, tmp_path: Path, wrong: str) -> None:
    """The transport and the result backend verify the server in the same way as our own client."""
    url = (
        site.url(broker_ca_file=other_ca(tmp_path))
        if wrong == "CA"
        else site.url(broker_url=f"rediss://imagefleet@localhost:{site.port}/0")
    )
    transport.install()
    with Connection(url) as connection, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        connection.connect()
    backend = RedisBackend(app=Celery(set_as_current=False), url=url)
    with backend.client as server, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        server.ping()
    with broker_client.client(url, retry=False) as ours, pytest.raises(redis.ConnectionError, match="VERIFY_FAILED"):
        ours.ping()


def test_worker_waits_for_a_verifiable_server(site: Site, tmp_path: Path) -> None:
    """If a worker can't verify its Redis, it logs the failure without the password, and retries."""
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    with processes.started("distrustful", argv, tmp_path, site.env(BROKER_CA_FILE=str(other_ca(tmp_path)))) as worker:
        processes.eventually(lambda: worker.err.count("certificate verify failed") > 1, "its second attempt")
        assert worker.process.poll() is None
        assert site.password not in worker.out + worker.err


def test_worker_without_its_ca_file_ends(site: Site, tmp_path: Path) -> None:
    """If the CA file of a worker is missing, the worker reports this and ends, instead of retrying for ever."""
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    with processes.started("lost", argv, tmp_path, site.env(BROKER_CA_FILE="/nowhere.pem")) as worker:
        ended = worker.wait()
    assert ended.code == 1
    assert "can't start" in ended.err
    assert "/nowhere.pem does not exist" in ended.err


_DENIED = [
    *("FLUSHALL", "FLUSHDB", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "MONITOR", "SAVE", "REPLICAOF NO ONE", "SWAPDB 0 1"),
    *("CONFIG GET requirepass", "CONFIG SET maxmemory 1", "CONFIG REWRITE", "ACL LIST", "ACL SETUSER imagefleet +@all"),
    *("MODULE LIST", "FUNCTION LIST", "SCRIPT FLUSH", "CLIENT LIST", "CLIENT KILL TYPE normal", "SLOWLOG GET"),
    *("KEYS *", "SCAN 0", "RANDOMKEY", "RENAME unacked imagefleet:x", "GET foreign", "SET foreign 1", "DEL foreign"),
    *("LPUSH celery x", "PUBLISH news x", "PSUBSCRIBE *", "SUBSCRIBE news", "PUBSUB CHANNELS"),
]


@pytest.mark.parametrize("command", _DENIED)
def test_unneeded_commands_are_denied(site: Site, command: str) -> None:
    """The fleet's user has no permission for commands and keys that the fleet does not need."""
    with (
        client(site.port, site.folder, "imagefleet") as ours,
        # Redis refuses the command DEBUG to every user before it checks the permissions.
        pytest.raises(redis.ResponseError, match=r"(?i)no permissions|DEBUG command not allowed"),
    ):
        ours.execute_command(*command.split())


def test_scripts_are_denied_too(site: Site) -> None:
    """A Lua script has only the permissions of the user who sends it."""
    site.admin.set("foreign", "secret")
    with client(site.port, site.folder, "imagefleet") as ours:
        for script in ("return redis.call('GET', 'foreign')", "return redis.call('FLUSHALL')"):
            with pytest.raises(redis.ResponseError, match=r"user executing the script can't|ACL failure"):
                ours.eval(script, 0)
    assert site.admin.getdel("foreign") == "secret"


def test_no_login_without_a_password(site: Site) -> None:
    """The default user is off, because it would need no password."""
    with (
        client(site.port, site.folder, None) as anonymous,
        pytest.raises(redis.AuthenticationError, match="authenticated"),
    ):
        anonymous.ping()


def test_acl_file_without_passwords_lets_no_one_in(site: Site, tmp_path: Path) -> None:
    """Redis refuses the users file until all passwords are filled in, so that no one uses example passwords."""
    argv = [
        redis_program(),
        "--port",
        str(processes.free_port()),
        "--dir",
        str(tmp_path),
        "--aclfile",
        str(processes.ROOT / "config" / "users.acl"),
    ]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "password hash must be exactly 64 characters" in ended.stdout


# Other versions


@contextmanager
def sending(site: Site) -> Iterator[Any]:
    """Give a function that sends any task to the site's workers."""
    transport.install()
    sender = Celery(set_as_current=False, broker=site.url())
    sender.conf.update(task_queues=app.conf.task_queues, task_default_queue=IMAGE_QUEUE)
    with sender.connection_for_write() as connection, sender.amqp.Producer(connection) as producer:
        yield partial(sender.send_task, producer=producer)
    sender.close()


@pytest.fixture
def other_version(tmp_path: Path) -> Path:
    """Give a checkout of another version with another message format."""
    for package in ("config", "tasks"):
        shutil.copytree(processes.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, line in {"config/__init__.py": 'VERSION = "', "tasks/celery.py": "PROTOCOL = "}.items():
        text = (tmp_path / name).read_text()
        assert text.count(line) == 1
        (tmp_path / name).write_text(text.replace(line, f"{line}9"))
    return tmp_path


@pytest.mark.slow
def test_worker_of_another_version_takes_nothing(
    site_without_workers: Site, other_version: Path, out: Path, demo_url: str
) -> None:
    """A worker of another version is reported and takes no task. A worker of the same version completes the run."""
    site = site_without_workers
    env = {**site.env(), "PYTHONPATH": str(other_version)}
    (other_version / "list").write_text("".join(f"{demo_url}/images/{index}.jpg\n" for index in range(5)))
    argv = processes.command(["run", other_version / "list", "--out", out, "--json"])
    with (
        site.worker("other", env, cwd=other_version) as other,
        processes.started("run", argv, other_version, site.env()) as run,
    ):
        processes.eventually(lambda: site.admin.llen(IMAGE_QUEUE) == 5, "five queued tasks")
        assert "ignoring workers with an incompatible version: other@" in run.err
        assert "(90." in run.err
        assert "No worker has answered" in run.err
        with site.worker("same"):
            ended = run.wait()
        assert (ended.json()["success"], site.admin.llen(IMAGE_QUEUE)) == (5, 0)
        assert FETCH_IMAGE not in other.err.partition("ready.")[2]


@pytest.mark.slow
@pytest.mark.usefixtures("workers", "nothing_denied")
def test_requeues_a_message_of_another_version(site: Site) -> None:
    """If a worker of another version dies, any worker requeues its tasks to the queue of the dead worker's version."""
    queue = IMAGE_QUEUE.replace(str(PROTOCOL), f"9{PROTOCOL}")
    site.admin.sadd(f"_kombu.binding.{queue}", _SEPARATOR.join([queue, "", queue]))
    message = {"body": "", "headers": {}, "properties": {"delivery_tag": "tag", "delivery_info": {"priority": 0}}}
    site.admin.hset("unacked", "tag", json.dumps([message, queue, queue]))
    site.admin.zadd("unacked_index", {"tag": 1})
    processes.eventually(lambda: site.admin.llen(queue) == 1, "the message in its queue")
    assert not site.admin.exists("unacked", "unacked_index")
    site.admin.delete(queue, f"_kombu.binding.{queue}")


@pytest.mark.usefixtures("workers", "nothing_denied")
def test_dead_worker_is_removed(site: Site) -> None:
    """The user may find a dead worker, count the worker's crashes, requeue its tasks, and forget the worker."""
    dead, queue = "dead@there|there|boot.1|1|random", IMAGE_QUEUE.replace(str(PROTOCOL), f"9{PROTOCOL}")
    message = {"body": "", "headers": {}, "properties": {"delivery_tag": "tag", "delivery_info": {}}}
    site.admin.set(keys.run("odd"), "{}")
    site.admin.sadd(keys.running(dead), "odd.1")
    site.admin.hset(keys.worker_key(keys.UNACKED, dead), "tag", json.dumps([message, "", queue]))
    site.admin.zadd(keys.worker_key(keys.UNACKED_INDEX, dead), {"tag": 1})
    site.admin.sadd(keys.WORKERS, dead)
    processes.eventually(lambda: not site.admin.sismember(keys.WORKERS, dead), "its removal")
    assert (site.admin.llen(queue), site.admin.hgetall(keys.crashes("odd"))) == (1, {"odd.1": "1"})
    assert not [key for key in site.admin.keys("*") if dead in key]
    site.admin.delete(queue, *keys.run_keys("odd"))


def test_celery_drops_an_unknown_task(site_without_workers: Site) -> None:
    """Celery logs and drops the message of an unknown task. Therefore, another message format has another queue."""
    site = site_without_workers
    with site.worker("only") as worker:
        with sending(site) as send:
            send("tasks.jobs.of_the_future", args=(), task_id="odd", ignore_result=True)
        processes.eventually(
            lambda: "unregistered task of type 'tasks.jobs.of_the_future'" in worker.err, "the log message"
        )
        processes.eventually(lambda: site.admin.exists("celery-task-meta-odd"), "its failure")
        assert (site.admin.llen(IMAGE_QUEUE), processes.unacked_count(site.admin)) == (0, 0)
