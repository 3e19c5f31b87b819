"""Explain an object store's errors in plain words.

The client's own texts are never shown, because they contain whole responses, and a response may name the credentials'
id.
"""

from __future__ import annotations

import re

from config.locations import StoreUrl

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
#: The host that the client asks for the machine's role if the environment has no credentials.
_METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_SETTINGS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_DENIED = (401, 403)
#: Statuses that say nothing about the next attempt.
_TEMPORARY = (408, 429)
_SERVER_ERROR = 500


def is_the_stores(error: Exception) -> bool:
    """Return whether an exception is one that the client raises."""
    # obstore's own exceptions, FileNotFoundError and timeouts, and ValueError for a name that obstore does not accept.
    return type(error).__module__.startswith("obstore") or isinstance(error, (OSError, ValueError))


def explain(error: Exception, url: StoreUrl) -> str:
    """Return the cause of a client's error, without secrets; if only the operator can help, add what to do."""
    text = str(error)
    status, found = _status(text), _CODE.search(text)
    code = found[1] if found is not None else ""
    shown = " ".join(str(part) for part in (status, code) if part)
    if any(host in text for host in _METADATA_HOSTS):
        return f"there are no credentials; set {_SETTINGS[url.scheme]} in this process's environment"
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return f"the bucket {url.bucket} does not exist"
    if isinstance(error, FileNotFoundError) or status == 404:  # not found
        return "the object or its bucket does not exist"
    if status == 501:  # not implemented
        return "the object store does not support conditional writes (501)"
    if status in _DENIED:
        return f"the object store refused access ({shown}); check the credentials and their permissions"
    if "redirect" in text.lower():
        return "the bucket is in another region; set AWS_REGION"
    if status in _TEMPORARY or (status or 0) >= _SERVER_ERROR:
        return f"the object store is overloaded or unavailable ({shown})"
    return f"the object store answered {shown}" if shown else _explain_connection(error)


def _explain_connection(error: Exception) -> str:
    """Return the reason why there was no response."""
    text = str(error)
    if "ConnectionRefused" in text:
        return "no connection to the object store: connection refused"
    if "dns error" in text:
        return "no connection to the object store: its host name has no address"
    if re.search(r"NetworkUnreachable|HostUnreachable|No route", text):
        return "no connection to the object store: there is no route to it"
    if re.search(r"TimedOut|timed out|kind: Timeout", text):
        return "the object store did not answer in time"
    if re.search(r"certificate|\btls\b|Tls", text):
        return "no connection to the object store: its TLS certificate can't be verified"
    if re.search(r"kind: (Connect|Request|Body|Decode|Interrupted)|error sending request|ConnectionReset", text):
        return "the connection to the object store broke"
    return f"the object store's client reports {type(error).__name__}"


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return None if found is None else int(found[1])
