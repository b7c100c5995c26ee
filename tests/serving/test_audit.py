"""The audit trail: the event's form, the chain, what a verification finds, and the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from medscore_assets import audit
from medscore_assets.audit import Anchor, Occurrence, append, audit_event, chain_hash, events, verify
from medscore_assets.cli.access import audit as audit_commands
from medscore_assets.cli.access import keys as key_commands
from medscore_assets.tables.serving import api_keys, audit_events
from resources.errors import PermanentError
from resources.warehouse import Warehouse

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
READER = Occurrence("audit-read", "success", START + timedelta(days=1), subject="steward")


def occurrence(number: int, **changes: Any) -> Occurrence:
    told: dict[str, Any] = {
        "kind": "score",
        "outcome": "success",
        "recorded": START + timedelta(seconds=number),
        "client": "ehr:ann",
        "subject": "ann",
        "issuer": "https://ehr.example.org",
        "roles": ("coordinator",),
        "route": "/v1/readmission/predict",
        "status": 200,
        "request_id": f"request-{number}",
        "patient_id": f"p{number}",
        "encounter_id": f"e{number}",
        "entity": f"score-{number}",
    }
    return Occurrence(**{**told, **changes})


@pytest.fixture
def chain(warehouse: Warehouse) -> Warehouse:
    """A warehouse with twelve events."""
    with warehouse.transaction() as connection:
        for number in range(1, 13):
            append(warehouse, connection, occurrence(number))
    return warehouse


def tamper(warehouse: Warehouse, *statements: str) -> None:
    """What somebody with all rights could do."""
    with warehouse.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE audit_events DISABLE TRIGGER append_only"))
        for statement in statements:
            connection.execute(sa.text(statement))
        connection.execute(sa.text("ALTER TABLE audit_events ENABLE TRIGGER append_only"))


def compute_anew(warehouse: Warehouse) -> None:
    """All hashes as if the chain had always been what it is."""
    c = audit_events.c
    with warehouse.transaction() as connection:
        rows = connection.execute(sa.select(c.sequence, c.event).order_by(c.sequence)).all()
        connection.execute(sa.text("ALTER TABLE audit_events DISABLE TRIGGER append_only"))
        previous = audit.GENESIS
        for number, row in enumerate(rows, start=1):
            digest = chain_hash(previous, row.event)
            connection.execute(
                sa.update(audit_events)
                .where(c.sequence == row.sequence)
                .values(sequence=number, previous_hash=previous, hash=digest)
            )
            previous = digest
        connection.execute(sa.text("ALTER TABLE audit_events ENABLE TRIGGER append_only"))


def no_empty_part(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(no_empty_part, value.values()))
    if isinstance(value, list):
        return bool(value) and all(map(no_empty_part, value))
    return value is not None and value != ""


@pytest.mark.parametrize("kind", sorted(audit.KINDS))
@pytest.mark.parametrize("known", [True, False])
def test_an_event_has_what_fhir_requires_and_no_empty_part(kind: str, known: bool) -> None:
    bare = Occurrence(kind, "refused", START, status=401, reason="expired")
    event = json.loads(audit_event(occurrence(1, kind=kind) if known else bare))

    assert event["resourceType"] == "AuditEvent"
    assert {"type", "subtype", "action", "recorded", "outcome", "agent", "source", "entity"} <= event.keys()
    assert sum(agent["requestor"] for agent in event["agent"]) == 1
    assert event["outcome"] in ("0", "4", "8", "12")
    assert event["action"] in ("C", "R", "U", "D", "E")
    assert event["source"]["observer"]
    assert datetime.fromisoformat(event["recorded"]).utcoffset() == timedelta(0)
    assert no_empty_part(event)


def test_an_event_is_canonical_and_says_who_did_what_about_whom() -> None:
    text = audit_event(occurrence(7))
    event = json.loads(text)

    assert text == json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert [e["what"] for e in event["entity"]] == [
        {"reference": "Patient/p7"},
        {"reference": "Encounter/e7"},
        {"identifier": {"value": "score-7"}},
        {"identifier": {"value": "request-7"}},
    ]
    user = event["agent"][2]
    assert user["who"]["identifier"] == {"system": "https://ehr.example.org", "value": "ann"}
    assert user["role"] == [{"text": "coordinator"}]
    assert event["subtype"][0] == {"system": "http://hl7.org/fhir/restful-interaction", "code": "create"}


def test_who_reads_is_the_destination_of_the_data_and_who_writes_their_source() -> None:
    def client_role(kind: str) -> str:
        agent = json.loads(audit_event(occurrence(1, kind=kind)))["agent"][0]
        return str(agent["type"]["coding"][0]["code"])

    assert (client_role("read"), client_role("score")) == ("110152", "110153")


def test_an_untouched_chain_is_intact_and_its_head_is_an_anchor(chain: Warehouse) -> None:
    found = verify(chain)

    assert (found.count, found.first, found.last, found.problems) == (12, 1, 12, ())
    assert found.intact
    assert found.head is not None
    assert Anchor.parse(str(found.head)) == found.head
    assert verify(chain, anchors=(found.head,)).intact


def test_an_empty_chain_is_intact_unless_an_anchor_says_that_there_was_one(warehouse: Warehouse) -> None:
    assert verify(warehouse).intact
    assert verify(warehouse, since=START).intact
    assert [p.kind for p in verify(warehouse, anchors=(Anchor(3, "a" * 64),)).problems] == ["cut"]


@pytest.mark.parametrize(
    ("statements", "kinds"),
    [
        (["UPDATE audit_events SET event = replace(event, 'p5', 'p6') WHERE sequence = 5"], {"changed"}),
        (["UPDATE audit_events SET recorded_at = recorded_at + interval '1 h' WHERE sequence = 5"], {"time"}),
        (["UPDATE audit_events SET hash = repeat('a', 64) WHERE sequence = 5"], {"changed", "unlinked"}),
        (["DELETE FROM audit_events WHERE sequence = 5"], {"gap"}),
        (
            [
                "DELETE FROM audit_events WHERE sequence = 5",
                "UPDATE audit_events SET sequence = sequence - 1 WHERE sequence > 5",
            ],
            {"unlinked"},
        ),
        (
            [
                "UPDATE audit_events SET sequence = 100 WHERE sequence = 5",
                "UPDATE audit_events SET sequence = 5 WHERE sequence = 6",
                "UPDATE audit_events SET sequence = 6 WHERE sequence = 100",
            ],
            {"unlinked"},
        ),
        (
            [
                "UPDATE audit_events SET sequence = sequence + 100 WHERE sequence > 5",
                "INSERT INTO audit_events SELECT 6, recorded_at, event, hash, "
                "encode(sha256(convert_to(hash || event, 'UTF8')), 'hex') FROM audit_events "
                "WHERE sequence = 5",
                "UPDATE audit_events SET sequence = sequence - 99 WHERE sequence > 100",
            ],
            {"unlinked"},
        ),
        (["UPDATE audit_events SET sequence = sequence - 1"], {"beginning"}),
        (["UPDATE audit_events SET previous_hash = repeat('b', 64) WHERE sequence = 1"], {"beginning"}),
    ],
    ids=[
        "changed",
        "dated otherwise",
        "hash replaced",
        "deleted",
        "deleted and renumbered",
        "swapped",
        "put in",
        "shifted",
        "begun anew",
    ],
)
def test_whatever_is_done_to_the_chain_is_found(
    chain: Warehouse, statements: list[str], kinds: set[str]
) -> None:
    tamper(chain, *statements)

    found = verify(chain)

    assert not found.intact
    assert kinds <= {problem.kind for problem in found.problems}


def test_an_end_that_was_cut_off_shows_only_against_an_anchor(chain: Warehouse) -> None:
    head = verify(chain).head
    assert head is not None
    tamper(chain, "DELETE FROM audit_events WHERE sequence > 9")

    assert verify(chain).intact
    assert [p.kind for p in verify(chain, anchors=(head,)).problems] == ["cut"]


def test_a_chain_that_was_computed_anew_shows_only_against_an_anchor(chain: Warehouse) -> None:
    head = verify(chain).head
    assert head is not None
    tamper(chain, "UPDATE audit_events SET event = replace(event, 'p5', 'p6') WHERE sequence = 5")
    compute_anew(chain)

    assert verify(chain).intact
    assert [(p.sequence, p.kind) for p in verify(chain, anchors=(head,)).problems] == [(12, "anchor")]


def test_a_chain_whose_beginning_was_removed_after_its_time_is_intact(chain: Warehouse) -> None:
    with chain.transaction() as connection:
        fourth = connection.scalar(sa.select(audit_events.c.hash).where(audit_events.c.sequence == 4))
        connection.execute(sa.text("SET LOCAL medscore.retention = 'on'"))
        connection.execute(sa.delete(audit_events).where(audit_events.c.sequence <= 4))

    found = verify(chain)

    assert (found.intact, found.first, found.count) == (True, 5, 8)
    assert verify(chain, anchors=(Anchor(4, fourth),)).intact
    assert not verify(chain, anchors=(Anchor(4, "a" * 64),)).intact


def test_a_part_of_the_chain_is_checked_with_its_link_to_the_rest(chain: Warehouse) -> None:
    since = START + timedelta(seconds=6)
    assert (verify(chain, since).first, verify(chain, since).count) == (5, 8)
    assert verify(chain, START + timedelta(days=1)).count == 0

    tamper(chain, "DELETE FROM audit_events WHERE sequence = 5")
    assert {p.sequence for p in verify(chain, since).problems} == {6}

    tamper(chain, "UPDATE audit_events SET previous_hash = repeat('b', 64) WHERE sequence = 6")

    assert {p.sequence for p in verify(chain, since).problems} == {6}


def test_a_chain_longer_than_a_batch_is_read_to_its_end(
    chain: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_ROWS_PER_READ", 5)
    tamper(chain, "UPDATE audit_events SET event = '{}' WHERE sequence = 11")

    found = verify(chain)

    assert (found.count, {p.sequence for p in found.problems}) == (12, {11})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET event = '{}' WHERE sequence = 1",
        "DELETE FROM audit_events WHERE sequence = 12",
        "TRUNCATE audit_events",
    ],
)
def test_the_table_refuses_anything_but_additions(chain: Warehouse, statement: str) -> None:
    with pytest.raises(PermanentError), chain.transaction() as connection:
        connection.execute(sa.text(statement))

    assert verify(chain).count == 12


def test_the_events_of_a_patient_are_theirs_alone_and_reading_them_is_recorded(chain: Warehouse) -> None:
    found = events(chain, READER, patient_id="p1")

    assert [each["sequence"] for each in found] == [1]
    assert [each["sequence"] for each in events(chain, READER, limit=2)] == [13, 12]
    assert verify(chain).count == 14
    assert verify(chain).intact


def test_a_patient_whose_name_is_no_fhir_id_is_referred_to_by_identifier_and_found(chain: Warehouse) -> None:
    name = 'p "7" ä'
    happened = occurrence(1, patient_id=name, encounter_id="e 7")
    other = occurrence(2, patient_id="somebody", encounter_id=name)
    with chain.transaction() as connection:
        append(chain, connection, happened)
        append(chain, connection, other)

    (found,) = events(chain, READER, patient_id=name)

    assert [entity["what"] for entity in found["event"]["entity"]][:2] == [
        {"type": "Patient", "identifier": {"value": name}},
        {"type": "Encounter", "identifier": {"value": "e 7"}},
    ]


def test_events_that_refer_to_a_patient_by_whatever_name_are_found_too(
    chain: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, chain.transaction() as connection:
        patched.setattr(audit, "reference_to", lambda kind, name: {"reference": f"{kind}/{name}"})
        append(chain, connection, occurrence(1, patient_id="p 7"))

    assert len(events(chain, READER, patient_id="p 7")) == 1


@pytest.mark.parametrize("text", ["", "12", "12:abc", f"-1:{'a' * 64}", f"x:{'a' * 64}"])
def test_an_anchor_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PermanentError):
        Anchor.parse(text)


@pytest.fixture
def command(
    chain: Warehouse, database: str, clean_environment: pytest.MonkeyPatch, tmp_path: Any
) -> Callable[..., Any]:
    """Runs a command against the chain of twelve."""
    clean_environment.setenv("MEDSCORE_DATABASE_URL", database)
    clean_environment.setenv("MEDSCORE_HOME", str(tmp_path))

    def run(app: Any, *arguments: str) -> Any:
        return CliRunner().invoke(app, arguments)

    return run


def test_the_command_verifies_and_fails_where_the_chain_is_broken(
    chain: Warehouse, command: Callable[..., Any]
) -> None:
    result = command(audit_commands, "verify", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["intact"], document["count"]) == (0, True, 12)
    assert command(audit_commands, "verify", "--anchor", document["anchor"]).exit_code == 0

    tamper(chain, "DELETE FROM audit_events WHERE sequence > 9")

    cut = command(audit_commands, "verify", "--anchor", document["anchor"])
    assert cut.exit_code == 1
    assert "before the anchor" in cut.stdout


def test_the_command_shows_events_and_records_who_read_them(
    chain: Warehouse, command: Callable[..., Any]
) -> None:
    shown = command(audit_commands, "show", "--patient", "p3", "--json")
    assert [e["sequence"] for e in json.loads(shown.stdout)] == [3]

    (newest, *_) = json.loads(command(audit_commands, "show", "--json").stdout)
    assert newest["event"]["subtype"][1]["code"] == "audit-read"
    assert newest["event"]["entity"][0]["what"] == {"reference": "Patient/p3"}
    assert "score success | ehr:ann ann | Patient/p12" in command(audit_commands, "show").stdout


def test_a_key_is_made_listed_and_revoked_and_its_secret_is_stored_nowhere(
    chain: Warehouse, command: Callable[..., Any]
) -> None:
    made = json.loads(
        command(key_commands, "create", "--client", "lab", "--role", "analyst", "--json").stdout
    )
    secret = made["key"].split("_", 2)[2]
    with chain.transaction() as connection:
        stored = connection.execute(
            sa.select(sa.cast(sa.literal_column("api_keys"), sa.Text)).select_from(api_keys)
        )
        assert secret not in stored.scalar_one()

    listed = json.loads(command(key_commands, "list", "--json").stdout)["keys"]
    assert [(k["key_id"], k["client"], k["state"]) for k in listed] == [(made["key_id"], "lab", "in force")]

    assert command(key_commands, "revoke", made["key_id"]).exit_code == 0
    assert command(key_commands, "revoke", made["key_id"]).exit_code == 1
    assert json.loads(command(key_commands, "list", "--json").stdout)["keys"][0]["state"] == "revoked"
    kinds = [e["event"]["subtype"][1]["code"] for e in events(chain, READER, limit=2)]
    assert kinds == ["access-change", "access-change"]
    assert secret not in json.dumps(events(chain, READER, limit=9))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--client", "lab", "--role", "king"],
        ["--client", "lab", "--role", "analyst", "--days", "91"],
        ["--client", "l" * 65, "--role", "analyst"],
        ["--client", "", "--role", "analyst"],
    ],
)
def test_a_key_with_an_unknown_role_too_long_a_life_or_a_strange_name_is_refused(
    chain: Warehouse, command: Callable[..., Any], arguments: list[str]
) -> None:
    assert command(key_commands, "create", *arguments).exit_code != 0
    assert json.loads(command(key_commands, "list", "--json").stdout) == {"keys": []}
