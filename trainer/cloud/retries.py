"""What a Google service answered, or the network on the way to it: whether to try again, and if not, what to say.

The clients' errors are known by their names and attributes, so that nothing of Google's is imported here. Of what they
say only the service's own sentence is passed on: their texts hold addresses, and the address of an upload is a key.
"""

import random
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from trainer.runtime.command import say
from trainer.runtime.errors import StorageError, TrainerError

DEADLINE = 900.0  # seconds without any progress after which a transfer is given up
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before what failed is tried again; doubled each time
SILENT_SECONDS = 5.0  # of failures, before anything is said about them
SAID_AGAIN = 60.0
CLOCK_SECONDS = 300.0  # by which a clock may be wrong before credentials are refused for it

TRANSIENT_CODES = {408, 429}  # and all from 500
NETWORK = {
    "ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout", "ReadTimeoutError", "TimeoutError", "ProtocolError",
    "ChunkedEncodingError", "IncompleteRead", "RemoteDisconnected", "BadStatusLine", "ConnectionResetError",
    "NewConnectionError", "MaxRetryError", "TransportError", "JSONDecodeError", "InvalidJSONError", "ProxyError",
    "NameResolutionError", "ConnectionRefusedError", "ConnectionAbortedError", "BrokenPipeError", "SSLError",
    "HTTPException", "LineTooLong", "InvalidChunkLength", "ContentDecodingError", "RetryError",
}  # fmt: skip
PERMISSION = re.compile(r"\b(?:storage|bigquery|serviceusage|resourcemanager)\.\w+\.\w+")
ACCOUNT = re.compile(r"[\w.+-]+@[\w.-]+\w")


class UnwholeError(Exception):
    """An answer was not what was asked for: bytes too few, too many or wrong, or a page of something in between."""


class StoppedError(Exception):
    """A thread ends because the work was given up: nobody will see this."""


class Tries:
    """Tries of something that may fail for a while: again after growing pauses, until `deadline` seconds (None: those
    of this module) have passed since it last got on."""

    def __init__(self, doing: str, deadline: float | None = None, stop: threading.Event | None = None) -> None:
        self.doing = doing  # such as "reading gs://bucket/name"
        self.deadline = DEADLINE if deadline is None else deadline
        self.stop = stop or threading.Event()
        self.furthest = 0
        self.progressed()

    def progressed(self, to: int | None = None) -> None:
        """Something got on; to this position, if it is further than ever."""
        if to is None or to > self.furthest:
            self.failures, self.since, self.furthest = 0, time.monotonic(), to or 0

    def again(self, error: Exception) -> None:
        """Pause before the next try. Raises StorageError if there is to be none, and what is no fault of the service or
        the network as it is."""
        if not transient(error):
            if code_of(error) or kind(error) or untrusted(error):
                raise refusal(error, self.doing) from error
            raise error
        left = self.since + self.deadline - time.monotonic()
        if left <= 0:
            raise StorageError(
                f"{sentence(self.doing)} failed for {self.deadline:.0f} s: {trouble(error)}. Start it again later."
            ) from error
        self.report(error)
        pause = min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311
        self.failures += 1
        if self.stop.wait(min(pause, left)):
            raise StoppedError

    def report(self, error: Exception) -> None:
        """Say what is wrong, once that lasts."""
        lasted = time.monotonic() - self.since
        if lasted > SILENT_SECONDS:
            tell(f"{self.doing}: {trouble(error)}; tried again for {max(self.deadline - lasted, 0):.0f} s")


_told = [0.0]


def tell(text: str) -> None:
    """A line about a trouble, at most one a minute: many threads have the same."""
    now = time.monotonic()
    if not _told[0] or now - _told[0] > SAID_AGAIN:
        _told[0] = now
        say("storage", text)


def transient(error: BaseException) -> bool:
    """Whether it may be over in a while."""
    if isinstance(error, UnwholeError):
        return True
    if isinstance(error, TrainerError | StoppedError):
        return False
    if code := code_of(error):
        return code in TRANSIENT_CODES or code >= 500 or code < 400  # a page from between where an answer should be
    if untrusted(error):
        return False
    if kind(error) and kind(error) != "TransportError":
        return bool(getattr(error, "retryable", False))
    return any(type(each).__name__ in NETWORK for each in causes(error))


def too_slow(error: BaseException) -> bool:
    """Whether a request could not be sent in time."""
    names = {type(each).__name__ for each in causes(error)}
    return {"ProtocolError", "TimeoutError"} <= names and "ReadTimeoutError" not in names


def code_of(error: BaseException) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    try:
        return int(getattr(error, "code", 0) or getattr(getattr(error, "response", None), "status_code", 0) or 0)
    except (TypeError, ValueError):
        return 0


def unwrapped(error: Exception) -> Exception:
    """What the client's own tries have failed by."""
    last = error.__cause__
    return last if type(error).__name__ == "RetryError" and isinstance(last, Exception) else error


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made from, each once."""
    seen, waiting = set(), [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            others = [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
            waiting += [other for other in others if isinstance(other, BaseException)]


def kind(error: BaseException) -> str:
    """The name of an error of Google's credentials; "" of others."""
    return type(error).__name__ if type(error).__module__.startswith("google.auth") else ""


def untrusted(error: BaseException) -> str:
    """Why the certificate of the other side is not trusted; "" where that is not the trouble."""
    for each in causes(error):
        if type(each).__name__ == "SSLCertVerificationError":
            return str(getattr(each, "verify_message", "")) or "not trusted"
    return ""


def said(error: BaseException) -> str:
    """The service's own sentence, on one line; "" where there is none."""
    response = getattr(error, "response", None)
    try:
        text = str(response.json()["error"]["message"])  # type: ignore[union-attr]
    except (AttributeError, ValueError, KeyError, TypeError):
        text = str(getattr(response, "text", "") or "")
    text = " ".join(text.split())
    return "" if text.startswith(("<", "{")) else text[:300]


def trouble(error: BaseException) -> str:
    """What keeps failing, in a few words."""
    code, names = code_of(error), {type(each).__name__ for each in causes(error)}
    if code == 429:
        return "the service answers 429: too many requests"
    if code >= 400:
        return f"the service answers {code}" + (f" ({said(error)})" if said(error) else "")
    if isinstance(error, UnwholeError):
        return str(error)
    if names & {"NameResolutionError", "gaierror"}:
        return "the service's name is not found; is there a network?"
    if names & {"ReadTimeout", "ReadTimeoutError", "ConnectTimeout", "Timeout", "TimeoutError", "ConnectTimeoutError"}:
        return "no answer in time"
    if names & {"NewConnectionError", "ConnectionRefusedError"}:
        return "the service cannot be reached; is there a network?"
    if code or names & {"JSONDecodeError", "InvalidJSONError"}:
        return "the answers are not the service's; a proxy or a log-in page may be in the way"
    return "the connection breaks"


def refusal(error: BaseException, doing: str) -> StorageError:
    """One message about what will not go away by itself: what, where, what to do. doing: such as "reading gs://b/n"."""
    what, code, text = f"{sentence(doing)} failed: ", code_of(error), said(error)
    if kind(error) == "DefaultCredentialsError":
        why = f"credentials are missing ({first_sentence(str(error))})"
        return StorageError(
            f"{what}{why}. Run `gcloud auth application-default login`, or name a key file in "
            "GOOGLE_APPLICATION_CREDENTIALS, or use a machine with a service account."
        )
    if kind(error) or code == 401:
        clock = clock_trouble(error)
        advice = clock or "Run `gcloud auth application-default login` again, or renew the key of the service account."
        return StorageError(f"{what}the credentials are expired or refused. {advice}")
    if reason := untrusted(error):
        clock = "Is this machine's clock right? " if "expired" in reason or "not yet valid" in reason else ""
        return StorageError(f"{what}the certificate of the service is not trusted: {reason}. {clock}".rstrip())
    if code == 400 and "requester pays" in text.lower():
        return StorageError(
            f"{what}the bucket is requester-pays. Copy it to a bucket of your own, or ask its owner to turn that off."
        )
    if code == 403:
        permission, account = PERMISSION.search(text), ACCOUNT.search(text)
        who = account[0] if account else "the account in use"
        lacks = f"{who} lacks the permission {permission[0]}" if permission else text or "permission denied"
        return StorageError(f"{what}{lacks.rstrip('.')}. Ask the owner of the bucket or project for it.")
    return StorageError(f"{what}{(text or plain(error)).rstrip('.')}{f' ({code})' if code else ''}.")


def plain(error: BaseException) -> str:
    """An error without the service's words."""
    if code_of(error) == 404:
        return "it is not there"
    return trouble(error) if code_of(error) or transient(error) else type(error).__name__


def sentence(text: str) -> str:
    """A text that begins with a capital letter, and is left as it is otherwise."""
    return text[:1].upper() + text[1:]


def first_sentence(text: str) -> str:
    """The beginning of a text, up to the end of a sentence."""
    return re.split(r"\.(?:\s|$)", " ".join(text.split()))[0][:200]


def clock_trouble(error: BaseException) -> str:
    """A sentence about a wrong clock, where the answer shows one; else ""."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        off = (datetime.now(UTC) - parsedate_to_datetime(headers["Date"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        off = 0.0
    if abs(off) > CLOCK_SECONDS:
        side = "ahead of" if off > 0 else "behind"
        return f"The clock of this machine is {abs(off) / 60:,.0f} minutes {side} the service's: set it right."
    if re.search(r"reasonable timeframe|\biat\b|used too early|\bclock\b", str(error)):
        return "The clock of this machine seems wrong: set it right."
    return ""
