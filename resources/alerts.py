"""Telling people: one alert to a log, a webhook or a mailbox.

Belongs here: what an alert says, how it looks in each channel, and delivery with a deadline.
Does not belong here: when something is an alert, to whom it goes, and whether it has been told before.

No error that leaves this module holds an address, a password or a secret of a channel.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import smtplib
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from resources.errors import MedscoreError, PermanentError, TransientError

Severity = Literal["warning", "critical"]
T = TypeVar("T")

CONNECT_S = 5.0
READ_S = 8.0
DEADLINE_S = 10.0
"""The longest that one attempt may take, however slowly the other side answers."""
ATTEMPTS = 3
"""How often one call of a webhook asks, if the receiver fails or is not there."""
SECONDS_BETWEEN_ATTEMPTS = 0.5
LONGEST_TEXT = 2000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that is wrong, or that is over: what, since when, who cares and what mends it.

    `key` names the thing, such as a job with its day. `opened_at` and `recovered_at` have a zone.
    No text may hold anything of a patient.
    """

    key: str
    owner: str
    severity: Severity
    title: str
    detail: str
    mend: str
    opened_at: datetime
    recovered: bool = False
    recovered_at: datetime | None = None

    @property
    def idempotency_key(self) -> str:
        """The same for every delivery of one message; another for its recovery and for its next time."""
        state = f"recovered {self.recovered_at}" if self.recovered else f"opened {self.severity}"
        return hashlib.sha256(f"{self.key}\n{self.opened_at.timestamp()}\n{state}".encode()).hexdigest()[:32]

    @property
    def headline(self) -> str:
        """One line."""
        state = "RECOVERED" if self.recovered else self.severity.upper()
        return " ".join(f"{state}: {self.title}".split())[:200]

    @property
    def text(self) -> str:
        """A few lines for people."""
        since = f"Owner: {self.owner}. Since {self.opened_at:%Y-%m-%d %H:%M %Z}."
        told = [self.headline] if self.recovered else [self.headline, self.detail, self.mend]
        return "\n".join([line[:LONGEST_TEXT] for line in told if line] + [since])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "state": "recovered" if self.recovered else "open",
            "key": self.key,
            "owner": self.owner,
            "severity": self.severity,
            "title": self.title,
            "detail": self.detail[:LONGEST_TEXT],
            "mend": self.mend[:LONGEST_TEXT],
            "opened_at": self.opened_at.isoformat(),
            "recovered_at": self.recovered_at.isoformat() if self.recovered_at else None,
            "idempotency_key": self.idempotency_key,
        }


class Channel(Protocol):
    """A way to tell people. `send` returns when the other side has taken the message.

    It raises `TransientError` when trying again may help and `PermanentError` when the channel's
    settings must be corrected. It may be called again with the same alert.
    """

    name: str

    def send(self, alert: Alert) -> None: ...


class LogChannel:
    """Writes the alert to this process's log; it cannot fail."""

    def __init__(self, name: str = "log") -> None:
        self.name = name

    def send(self, alert: Alert) -> None:
        urgency = logging.ERROR if alert.severity == "critical" else logging.WARNING
        line = " | ".join(alert.text.splitlines())
        _log.log(logging.INFO if alert.recovered else urgency, "ALERT %s [%s]", line, alert.key)


class WebhookChannel:
    """POSTs JSON: `text` for people, as Slack, Teams and Mattermost take it, and `alert` for programs.

    The headers follow Standard Webhooks: `webhook-id` is the idempotency key (also sent as
    `Idempotency-Key`), and with a secret `webhook-signature` is HMAC-SHA256 over id, time and body.
    A redirect is refused, because it would carry the message to where nobody meant it to go.
    """

    def __init__(self, name: str, url: str, secret: str | None = None) -> None:
        self.name = name
        self._url, self._secret = url, secret
        self._where = f"alert channel {name}"
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise PermanentError(
                "the address is not of the form https://host/path",
                where=self._where,
                mend="Correct the variable that the channel names.",
            )

    def send(self, alert: Alert) -> None:
        body = json.dumps({"text": alert.text, "alert": alert.as_dict()}).encode()
        for last in (*[False] * (ATTEMPTS - 1), True):
            try:
                status = within(DEADLINE_S, lambda: self._post(alert, body), where=self._where)
            except TransientError:
                if last:
                    raise
            else:
                if status < 500 or last:
                    self._require_taken(status)
                    return
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)

    def _post(self, alert: Alert, body: bytes) -> int:
        import requests

        try:
            with requests.post(
                self._url,
                data=body,
                headers=self._headers(alert, body),
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
                # The answer's body is nobody's business, and may have no end.
                stream=True,
            ) as response:
                return response.status_code
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            # Not chained, and not quoted: the text holds the address, and that may hold a token.
            raise TransientError(
                f"the receiver cannot be reached ({type(error).__name__})",
                where=self._where,
                mend="Start the receiver, or correct the channel's address.",
            ) from None
        except requests.RequestException as error:
            raise PermanentError(
                f"the receiver cannot be asked ({type(error).__name__})",
                where=self._where,
                mend="Correct the channel's address.",
            ) from None

    def _require_taken(self, status: int) -> None:
        if 200 <= status < 300:
            return
        if status >= 500 or status in (408, 425, 429):
            raise TransientError(f"the receiver answered {status}", where=self._where, mend="Try again.")
        what = f"the receiver answered {status}"
        mend = "Correct the channel's address or secret."
        if 300 <= status < 400:
            what, mend = f"{what}, a redirect", "Give the address to which it redirects."
        raise PermanentError(what, where=self._where, mend=mend)

    def _headers(self, alert: Alert, body: bytes) -> dict[str, str]:
        sent_at = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "medscore-alerts",
            "Idempotency-Key": alert.idempotency_key,
            "webhook-id": alert.idempotency_key,
            "webhook-timestamp": sent_at,
        }
        if self._secret:
            signature = sign(self._secret, alert.idempotency_key, sent_at, body)
            headers["webhook-signature"] = signature
        return headers


def sign(secret: str, message_id: str, sent_at: str, body: bytes) -> str:
    """The signature of Standard Webhooks, `v1,<base64>`. `whsec_...` secrets are base64, others plain."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise PermanentError(
                "the secret begins with whsec_ and is not base64",
                where="the channel's secret",
                mend="Copy it again, or choose one that does not begin with whsec_.",
            ) from None
    signed = f"{message_id}.{sent_at}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class EmailChannel:
    """Sends a text mail through `smtp://` (STARTTLS) or `smtps://` (TLS), `user:password@` if need be.

    Without TLS it sends to this machine only, and never a password. The Message-ID is the idempotency
    key, so that a mailbox can tell a message that comes twice.
    """

    def __init__(self, name: str, url: str, sender: str, recipients: list[str]) -> None:
        self.name = name
        self._url: SplitResult = urlsplit(url)
        self._sender, self._recipients = sender, recipients
        self._where = f"alert channel {name}"
        if self._url.scheme not in ("smtp", "smtps") or not self._url.hostname:
            raise PermanentError(
                "the address is not of the form smtp://user:password@host:port",
                where=self._where,
                mend="Correct the variable that the channel names.",
            )
        if not recipients or not all("@" in address for address in (sender, *recipients)):
            raise PermanentError(
                "sender and recipients must be addresses such as care@example.org",
                where=self._where,
                mend="Correct the variables that the channel names.",
            )

    def send(self, alert: Alert) -> None:
        try:
            within(DEADLINE_S, lambda: self._deliver(self._message(alert)), where=self._where)
        except MedscoreError:
            raise
        except smtplib.SMTPResponseException as error:
            self._refused(error.smtp_code)
        except smtplib.SMTPRecipientsRefused as error:
            self._refused(max(code for code, _ in error.recipients.values()))
        except ssl.SSLCertVerificationError:
            raise PermanentError(
                "the mail server's certificate is not trusted",
                where=self._where,
                mend="Install its authority's certificate, or name the server as the certificate does.",
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise TransientError(
                f"the mail server does not answer ({type(error).__name__})",
                where=self._where,
                mend="Start the mail server, or correct the channel's address.",
            ) from None

    def _refused(self, code: int) -> None:
        kind = TransientError if 400 <= code < 500 else PermanentError
        raise kind(
            f"the mail server refused with code {code}",
            where=self._where,
            mend="Correct user, password, sender or recipients of the channel.",
        ) from None

    def _deliver(self, message: EmailMessage) -> None:
        url, context = self._url, ssl.create_default_context()
        host, password = url.hostname or "", url.password
        server: smtplib.SMTP
        if url.scheme == "smtps":
            server = smtplib.SMTP_SSL(host, url.port or 465, timeout=READ_S, context=context)
        else:
            server = smtplib.SMTP(host, url.port or 587, timeout=READ_S)
        with server:
            server.ehlo()
            if url.scheme == "smtp" and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            elif url.scheme == "smtp" and (password or not _is_this_machine(host)):
                raise PermanentError(
                    "the mail server offers no encryption",
                    where=self._where,
                    mend="Use a server with STARTTLS or smtps://, or a relay on this machine.",
                )
            if url.username and password:
                server.login(unquote(url.username), unquote(password))
            if refused := server.send_message(message):
                _log.warning("%s: %d of the recipients were refused", self._where, len(refused))

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[MedScore] {alert.headline}"
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Date"] = format_datetime(alert.recovered_at or alert.opened_at)
        message["Message-ID"] = f"<{alert.idempotency_key}.{self.name}@medscore.invalid>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(alert.text + "\n")
        return message


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def within(seconds: float, work: Callable[[], T], *, where: str) -> T:
    """What `work` returns or raises, or `TransientError` once `seconds` have passed.

    Time-outs of sockets count from byte to byte, so a slow answer could take for ever. Work that is late
    goes on in a thread that ends with the process.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name=where)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TransientError(f"no answer within {seconds:.0f} s", where=where, mend="Try again.")
    return done[0]
