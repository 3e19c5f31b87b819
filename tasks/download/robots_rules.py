"""The rules of a host's robots.txt (RFC 9309): which URLs a robot may request, and how fast. No I/O.

The parser is the library protego, which Scrapy uses, too. Unlike the standard library's parser, protego supports
wildcards and lets the longest matching rule win, as RFC 9309 requires. It is imported only if a file has rules.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Self

from tasks.download.x_robots_tag import AGENT

if TYPE_CHECKING:
    from protego import Protego

#: The number of bytes that are parsed; the rest of a file is ignored (RFC 9309, section 2.5).
MAX_BYTES = 500 * 1024
#: Seconds for which a file's rules are used (RFC 9309, section 2.4 allows a day). The limit is short because the rules
#: take memory in Redis, and because an owner may change the file.
RULES_SECONDS = 3600.0
#: Seconds for which a host is not asked again after its server failed (RFC 9309, section 2.3.1.4).
UNREACHABLE_SECONDS = 60.0
#: The longest crawl delay that is honoured, in seconds.
MAX_CRAWL_DELAY_SECONDS = 10.0
#: The bytes of a byte order mark. Some files have only a part of it.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Without such a line, a file has no rules. For example, many servers send a web page instead of a missing file.
_USER_AGENT_LINE = re.compile("user.?agent", re.IGNORECASE)
#: The names of the field of such a line that protego accepts.
_AGENT_FIELDS = frozenset({"user-agent", "useragent", "user agent"})
#: The name of all other robots, in the place of names that are not the asked one.
_OTHER_ROBOT = "/"
#: The maximum number of robots for which the parsed rules of a host are kept.
_MAX_ROBOTS = 4
#: The name in a User-Agent such as ``Mozilla/5.0 (compatible; SomeBot/1.0)``, and the first name in any other.
_COMPATIBLE, _FIRST_NAME = re.compile(r"\(compatible; *([^\s/;()]+)"), re.compile(r"([^\s/;()]+)")


def product_token(user_agent: str | None) -> str:
    """Return the name that a robots.txt uses for a run with this User-Agent; None is imagefleet's own User-Agent."""
    if user_agent is None:
        return AGENT
    found = _COMPATIBLE.search(user_agent) or _FIRST_NAME.match(user_agent)
    return AGENT if found is None else found[1].lower()


class RobotsRules:
    """The rules of one host, for all robots. Without a text, everything is allowed.

    The text is parsed separately for each robot that asks. protego copies the rules of a group for each robot that the
    group names, so a short text with many robots could take gigabytes.
    """

    __slots__ = ("_lock", "_parsed", "text", "unreachable")

    def __init__(self, text: str = "", unreachable: str | None = None) -> None:
        """Set the rules.

        Args:
            text: the lines of the file.
            unreachable: the error of a server that did not send the file, so that no URL may be requested.
        """
        self.text, self.unreachable = text, unreachable
        #: The parsed rules by the robot's token.
        self._parsed: dict[str, Protego] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Return the rules in the body of a response. Any bytes are accepted; invalid lines are ignored."""
        if len(body) > MAX_BYTES:
            body = body[:MAX_BYTES]
            # The last line may be incomplete. If `/private` became `/`, the rule would apply to all URLs.
            body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
        text = body.lstrip(_BYTE_ORDER_MARK).decode("utf-8", "replace")
        if not _USER_AGENT_LINE.search(text):
            return cls()
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return cls("\n".join(line for line in lines if line and not line.lower().startswith("sitemap:")))

    @property
    def lifetime(self) -> float:
        """The seconds for which the rules are used."""
        return RULES_SECONDS if self.unreachable is None else UNREACHABLE_SECONDS

    def allows(self, target: str, token: str) -> bool:
        """Tell whether a robot may request a URL.

        Args:
            target: the path and query of the normalised URL.
            token: the robot's product token, as `product_token` returns it. A group also applies if its name is the
                beginning of the token. If several groups apply, the group with the longest name counts.
        """
        if not self.text:
            return True
        return self._rules_for(token).can_fetch(f"http://host{target}", token)

    def _rules_for(self, token: str) -> Protego:
        return self._parsed.get(token) or self._parse_for(token)

    def _parse_for(self, token: str) -> Protego:
        # Many slots ask at once when the file has arrived.
        with self._lock:
            parsed = self._parsed.get(token)
            if parsed is None:
                parsed = _parse(self.text, token.lower())
                if len(self._parsed) >= _MAX_ROBOTS:
                    self._parsed.clear()
                self._parsed[token] = parsed
        return parsed

    def crawl_delay(self, token: str) -> float | None:
        """Return the seconds between two requests of a robot, at most `MAX_CRAWL_DELAY_SECONDS`; None for no limit.

        RFC 9309 has no crawl delay, but many files do.
        """
        delay = self._rules_for(token).crawl_delay(token) if self.text else None
        return min(delay, MAX_CRAWL_DELAY_SECONDS) if delay else None

    def to_json(self) -> str:
        """Return the rules as JSON."""
        return json.dumps({"text": self.text, "unreachable": self.unreachable}, ensure_ascii=False)

    @classmethod
    def from_json(cls, value: str) -> Self:
        """Return the rules from the output of `to_json`."""
        known = json.loads(value)
        return cls(known["text"], known["unreachable"])


def _parse(text: str, token: str) -> Protego:
    """Return the rules of the groups that may apply to a robot."""
    from protego import Protego

    lines = []
    for line in text.splitlines():
        name = _robot_name(line)
        if name is None:
            lines.append(line)
            continue
        if name != "*":
            # protego ignores asterisks in a name, too.
            name = name.replace("*", "")
            if not name or name not in token:
                name = _OTHER_ROBOT
        lines.append(f"User-agent: {name}")
    return Protego.parse("\n".join(lines))


def _robot_name(line: str) -> str | None:
    """Return the robot's name in a line that begins a group, as protego finds it; None for another line."""
    field, colon, value = line.partition(":")
    if colon and field.strip().lower() in _AGENT_FIELDS:
        return value.strip().lower()
    if colon and (not value or value[0].isspace()):
        return None
    words = line.lower().split()
    for count in (1, 2):
        if " ".join(words[:count]) in _AGENT_FIELDS:
            return " ".join(words[count:])
    return None
