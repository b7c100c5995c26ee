"""The channels, against a real receiver and a real mail server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources.alerts import EmailChannel, LogChannel, WebhookChannel
from resources.errors import PermanentError, TransientError
from tests.alerts.conftest import OPENED, SECRET, Mailbox, Receiver, alert

RECOVERED = replace(alert(), recovered=True, recovered_at=OPENED + timedelta(hours=1))


def test_a_webhook_gets_a_text_for_people_and_fields_for_programs(receiver: Receiver) -> None:
    WebhookChannel("hook", receiver.url).send(alert())
    ((headers, body),) = receiver.requests
    document = json.loads(body)
    assert document["text"].startswith("CRITICAL: readmission_outreach failed for 2026-03-02\n")
    assert "Start it." in document["text"]
    assert "team:clinical-ml" in document["text"]
    assert document["alert"]["state"] == "open"
    assert document["alert"]["key"] == alert().key
    assert headers["idempotency-key"] == headers["webhook-id"] == alert().idempotency_key
    assert "webhook-signature" not in headers


@pytest.mark.parametrize("secret", [SECRET, "whsec_" + base64.b64encode(b"of the standard").decode()])
def test_with_a_secret_the_body_is_signed(receiver: Receiver, secret: str) -> None:
    WebhookChannel("hook", receiver.url, secret).send(alert())
    ((headers, body),) = receiver.requests
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_opening_recovery_and_the_next_time_have_keys_of_their_own() -> None:
    again = alert(opened_at=OPENED + timedelta(days=1))
    worse = replace(alert(), severity="warning")
    keys = [a.idempotency_key for a in (alert(), RECOVERED, again, worse)]
    assert len(set(keys)) == 4
    assert alert().idempotency_key == alert(opened_at=OPENED.astimezone(UTC)).idempotency_key


def test_a_failing_receiver_is_asked_three_times_and_a_refusing_one_once(receiver: Receiver) -> None:
    asked: list[int] = []

    def answer(status: int) -> Callable[[], int]:
        return lambda: asked.append(status) or status  # type: ignore[func-returns-value]

    for status, error, times in (
        (503, TransientError, 3),
        (404, PermanentError, 1),
        (429, TransientError, 1),
    ):
        asked.clear()
        receiver.answers = answer(status)
        with pytest.raises(error, match=str(status)):
            WebhookChannel("hook", receiver.url).send(alert())
        assert len(asked) == times
    answers = iter([500, 200])
    receiver.answers = lambda: next(answers)
    WebhookChannel("hook", receiver.url).send(alert())
    assert len(receiver.requests) == 1


def test_a_redirect_is_refused(receiver: Receiver) -> None:
    receiver.answers = lambda: 307
    with pytest.raises(PermanentError, match="redirect"):
        WebhookChannel("hook", receiver.url).send(alert())


def test_no_error_holds_the_address(receiver: Receiver) -> None:
    receiver.stop()
    url = f"http://user:TOKEN@127.0.0.1:{receiver.port}/TOKEN"
    with pytest.raises(TransientError) as failed:
        WebhookChannel("hook", url).send(alert())
    assert "TOKEN" not in str(failed.value)
    assert failed.value.__cause__ is None
    mail = EmailChannel("mail", f"smtp://u:TOKEN@127.0.0.1:{receiver.port}", "a@b.org", ["c@d.org"])
    with pytest.raises(TransientError) as failed:
        mail.send(alert())
    assert "TOKEN" not in str(failed.value)


def test_a_receiver_that_answers_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.alerts.DEADLINE_S", 0.3)
    monkeypatch.setattr("resources.alerts.ATTEMPTS", 1)
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while not over.wait(0.05):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,), daemon=True)
        dripping.start()
        channel = WebhookChannel("hook", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(TransientError, match="no answer within"):
            channel.send(alert())
        over.set()
        dripping.join(5)


def test_a_mail_says_the_same(mail_server: Callable[..., Mailbox]) -> None:
    mailbox = mail_server()
    channel = EmailChannel(
        "mail", f"smtp://127.0.0.1:{mailbox.port}", "medscore@a.org", ["x@b.org", "y@b.org"]
    )
    channel.send(alert(title="one line\nBcc: everybody@example.org"))
    channel.send(RECOVERED)
    first, second = mailbox.mails
    assert first["Subject"] == "[MedScore] CRITICAL: one line Bcc: everybody@example.org"
    assert first["Bcc"] is None
    assert first["To"] == "x@b.org, y@b.org"
    assert "Start it." in str(first.get_payload())
    assert second["Subject"].startswith("[MedScore] RECOVERED: ")
    assert first["Message-ID"] != second["Message-ID"]


def test_a_mail_server_that_refuses_for_now_is_told_from_one_that_refuses_for_good(
    mail_server: Callable[..., Mailbox],
) -> None:
    mailbox = mail_server()
    channel = EmailChannel("mail", f"smtp://127.0.0.1:{mailbox.port}", "medscore@a.org", ["x@b.org"])
    for refusal, error in (("451 later", TransientError), ("550 never", PermanentError)):
        mailbox.refuse = refusal
        with pytest.raises(error, match=refusal[:3]):
            channel.send(alert())


def test_a_password_never_travels_in_clear(mail_server: Callable[..., Mailbox]) -> None:
    mailbox = mail_server()
    channel = EmailChannel("mail", f"smtp://u:p@127.0.0.1:{mailbox.port}", "medscore@a.org", ["x@b.org"])
    with pytest.raises(PermanentError, match="no encryption"):
        channel.send(alert())
    assert mailbox.mails == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_mail_is_encrypted_and_the_server_proven(
    scheme: str, certificate: Path, mail_server: Callable[..., Mailbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    options: dict[str, Any] = {"tls": context} if scheme == "smtps" else {"tls_context": context}
    if scheme == "smtp":
        options["require_starttls"] = True
    mailbox = mail_server(**options)
    channel = EmailChannel("mail", f"{scheme}://127.0.0.1:{mailbox.port}", "medscore@a.org", ["x@b.org"])
    with pytest.raises(PermanentError, match="certificate is not trusted"):
        channel.send(alert())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    channel.send(alert())
    assert len(mailbox.mails) == 1


def test_the_log_has_one_line_at_the_right_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for one in (alert(), replace(alert(), severity="warning"), RECOVERED):
        LogChannel().send(one)
    assert [r.levelname for r in caplog.records] == ["ERROR", "WARNING", "INFO"]
    assert all("\n" not in r.getMessage() and alert().key in r.getMessage() for r in caplog.records)
