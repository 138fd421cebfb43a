"""Retry requests to Google services while the failure may pass, and describe the failures that will not.

`Backoff` instead of `google.api_core.retry.Retry`, because that counts its timeout from the first attempt, so a long
transfer whose first failure comes after the timeout is not retried; and because Google's default rules retry an
untrusted certificate but not a proxy's HTML page (google-api-core 2.44, google-cloud-storage 3.17, tried).

Messages quote only the service's own sentence: the clients' texts contain URLs, and the URL of an upload is a secret.
"""

import http.client
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

from trainer.runtime.command import say
from trainer.runtime.errors import StorageError, TrainerError

DEADLINE = 900.0  # seconds without progress after which a transfer is abandoned
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before a retry; doubled each time
QUIET_SECONDS = 5.0  # of failures, before a warning
WARNING_INTERVAL = 60.0
CLOCK_SECONDS = 300.0  # clock error above which refused credentials are blamed on the clock

PERMISSION = re.compile(r"\b(?:storage|bigquery|serviceusage|resourcemanager)\.\w+\.\w+")
ACCOUNT = re.compile(r"[\w.+-]+@[\w.-]+\w")

T = TypeVar("T")


class BadResponseError(Exception):
    """A response that is not what was requested: too short, too long, damaged, or a proxy's page."""


class StoppedError(Exception):
    """Ends a thread whose transfer was abandoned. Nobody sees this."""


class Backoff:
    """Growing pauses between attempts, until `deadline` seconds (default: DEADLINE) have passed without progress.

    doing: what is attempted, such as "reading gs://bucket/name". stop: ends a pause early, with StoppedError.
    """

    def __init__(self, doing: str, deadline: float | None = None, stop: threading.Event | None = None) -> None:
        self.doing = doing
        self.deadline = DEADLINE if deadline is None else deadline
        self.stop = stop or threading.Event()
        self.position = self.failures = 0
        self.last_progress = time.monotonic()

    def progressed(self, position: int) -> None:
        """Reset the deadline and the pauses if `position` (bytes) is larger than ever before."""
        if position > self.position:
            self.failures, self.last_progress, self.position = 0, time.monotonic(), position

    def wait(self, error: Exception) -> None:
        """Pause before the next attempt. Raises StorageError when there is none; an error that comes neither from the
        service nor the network is raised as it is."""
        if not transient(error):
            if status_of(error) or credentials_fault(error) or certificate_fault(error):
                raise permanent_error(error, self.doing) from error
            raise error
        left = self.last_progress + self.deadline - time.monotonic()
        if left <= 0:
            raise StorageError(
                f"{capitalized(self.doing)} failed for {self.deadline:.0f} s: {describe(error)}. Start it again later."
            ) from error
        self.warn(error)
        pause = min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311
        self.failures += 1
        if self.stop.wait(min(pause, left)):
            raise StoppedError

    def warn(self, error: Exception) -> None:
        """Print a warning once failures last; at most one a minute, because many threads fail together."""
        now = time.monotonic()
        failing = now - self.last_progress
        if failing > QUIET_SECONDS and now - _last_warning[0] > WARNING_INTERVAL:
            _last_warning[0] = now
            left = max(self.deadline - failing, 0)
            say("storage", f"{self.doing}: {describe(error)}; retrying for another {left:.0f} s")


_last_warning = [-WARNING_INTERVAL]


def with_retries(doing: str, request: Callable[[], T], deadline: float | None = None) -> T:
    """The result of a request, which is retried for `deadline` seconds while its failure may pass.

    Raises StorageError, or what `request` raises for other reasons.
    """
    backoff = Backoff(doing, deadline)
    while True:
        try:
            return request()
        except Exception as error:
            backoff.wait(error)


def transient(error: BaseException) -> bool:
    """Whether a failure may pass by itself."""
    import requests  # noqa: PLC0415
    import urllib3  # noqa: PLC0415

    if isinstance(error, BadResponseError):
        return True
    if isinstance(error, TrainerError | StoppedError):
        return False
    if status := status_of(error):  # a success or a redirect here is a proxy's page in place of an answer
        return status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or not 400 <= status < 500
    if certificate_fault(error):
        return False
    if fault := credentials_fault(error):
        return fault == "TransportError" or bool(getattr(error, "retryable", False))
    network = (
        requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError,
        TimeoutError,
    )  # fmt: skip
    return any(isinstance(each, network) for each in causes(error))


def sent_too_slowly(error: BaseException) -> bool:
    """Whether a request could not be sent before its timeout."""
    names = {type(each).__name__ for each in causes(error)}
    return {"ProtocolError", "TimeoutError"} <= names and "ReadTimeoutError" not in names


def status_of(error: BaseException) -> int:
    """The HTTP status of an error response; 0 if there was no response."""
    try:
        return int(getattr(error, "code", 0) or getattr(getattr(error, "response", None), "status_code", 0) or 0)
    except (TypeError, ValueError):
        return 0


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors that caused it, each once."""
    seen, waiting = set(), [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            others = [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
            waiting += [other for other in others if isinstance(other, BaseException)]


def credentials_fault(error: BaseException) -> str:
    """The class name of an error of google.auth; "" for other errors."""
    return type(error).__name__ if type(error).__module__.startswith("google.auth") else ""


def certificate_fault(error: BaseException) -> str:
    """Why the service's certificate is not trusted; "" if that is not the failure."""
    for each in causes(error):
        if type(each).__name__ == "SSLCertVerificationError":
            return str(getattr(each, "verify_message", "")) or "not trusted"
    return ""


def service_message(error: BaseException) -> str:
    """The service's own sentence, on one line; "" if there is none."""
    response = getattr(error, "response", None)
    try:
        text = str(response.json()["error"]["message"])  # type: ignore[union-attr]
    except (AttributeError, ValueError, KeyError, TypeError):
        text = str(getattr(response, "text", "") or "")
    text = " ".join(text.split())
    return "" if text.startswith(("<", "{")) else text[:300]


def describe(error: BaseException) -> str:
    """A failure in a few words."""
    status, names = status_of(error), {type(each).__name__ for each in causes(error)}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "the service answers 429: too many requests"
    if status >= 400:
        message = service_message(error)
        return f"the service answers {status}" + (f" ({message})" if message else "")
    if isinstance(error, BadResponseError):
        return str(error)
    if names & {"NameResolutionError", "gaierror"}:
        return "the service's host name cannot be resolved; is there a network?"
    if names & {"ReadTimeout", "ReadTimeoutError", "ConnectTimeout", "Timeout", "TimeoutError", "ConnectTimeoutError"}:
        return "the service does not answer in time"
    if names & {"NewConnectionError", "ConnectionRefusedError"}:
        return "the service cannot be reached; is there a network?"
    if status or names & {"JSONDecodeError", "InvalidJSONError"}:
        return "the answers do not come from the service; a proxy or a log-in page may be in the way"
    return "the connection breaks"


def permanent_error(error: BaseException, doing: str) -> StorageError:
    """The message for a failure that will not pass. doing: such as "reading gs://bucket/name"."""
    what, status, text = f"{capitalized(doing)} failed: ", status_of(error), service_message(error)
    if credentials_fault(error) == "DefaultCredentialsError":
        reason = re.split(r"\.(?:\s|$)", " ".join(str(error).split()))[0][:200]
        return StorageError(
            f"{what}credentials are missing ({reason}). Run `gcloud auth application-default login`, or name a key "
            "file in GOOGLE_APPLICATION_CREDENTIALS, or use a machine with a service account."
        )
    if credentials_fault(error) or status == HTTPStatus.UNAUTHORIZED:
        advice = "Run `gcloud auth application-default login` again, or renew the key of the service account."
        return StorageError(f"{what}the credentials are expired or refused. {clock_fault(error) or advice}")
    if reason := certificate_fault(error):
        clock = " Is this machine's clock right?" if "expired" in reason or "not yet valid" in reason else ""
        return StorageError(f"{what}the certificate of the service is not trusted: {reason}.{clock}")
    if status == HTTPStatus.BAD_REQUEST and "requester pays" in text.lower():
        return StorageError(
            f"{what}the bucket is requester-pays. Copy it to a bucket of your own, or ask its owner to turn that off."
        )
    if status == HTTPStatus.FORBIDDEN:
        permission, account = PERMISSION.search(text), ACCOUNT.search(text)
        who = account[0] if account else "the account in use"
        lacks = f"{who} lacks the permission {permission[0]}" if permission else text or "permission denied"
        return StorageError(f"{what}{lacks.rstrip('.')}. Ask the owner of the bucket or project for it.")
    if not text and status == HTTPStatus.NOT_FOUND:
        text = "it does not exist"
    return StorageError(f"{what}{(text or describe(error)).rstrip('.')}{f' ({status})' if status else ''}.")


def capitalized(text: str) -> str:
    """A text with a capital first letter; the rest, such as names, stays as it is."""
    return text[:1].upper() + text[1:]


def clock_fault(error: BaseException) -> str:
    """A sentence about this machine's wrong clock, if the response shows one; else ""."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        offset = (datetime.now(UTC) - parsedate_to_datetime(headers["Date"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        offset = 0.0
    if abs(offset) > CLOCK_SECONDS:
        side = "ahead of" if offset > 0 else "behind"
        return f"The clock of this machine is {abs(offset) / 60:,.0f} minutes {side} the service's: set it right."
    if re.search(r"reasonable timeframe|\biat\b|used too early|\bclock\b", str(error)):
        return "The clock of this machine seems wrong: set it right."
    return ""
