"""Thresholds: what the file may say, and the verdict on a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medscore_assets.monitoring.thresholds import DEFAULT_FILE, load_thresholds
from resources.errors import PermanentError


def changed(folder: Path, old: str, new: str) -> Path:
    text = DEFAULT_FILE.read_text()
    assert old in text
    file = folder / "thresholds.toml"
    file.write_text(text.replace(old, new, 1))
    return file


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("alarm = 0.25", "alarm = 0.05", "psi"),
        ("alarm = 0.25", "alarm = 0.25\nalert = 1.0", "psi.alert"),
        ("alarm = 0.25", 'alarm = "0.25"', "psi.alarm"),
        ("alarm = 0.25", "alarm = nan", "psi.alarm"),
        ("warning = [0.80, 1.25]", "warning = [1.05, 1.25]", "calibration_slope"),
        ("alarm = [0.65, 1.55]", "alarm = [0.90, 1.55]", "calibration_slope"),
        ("events = 50", "events = 0", "minimum.events"),
        ('version = "2026.1"', "", "version"),
        ("[psi]", "[psi", "TOML"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(PermanentError, match=named.replace(".", r"\.")):
        load_thresholds(changed(tmp_path, old, new))


def test_a_file_that_is_absent_is_told_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="MEDSCORE_THRESHOLDS_FILE"):
        load_thresholds(tmp_path / "absent.toml")


def test_the_hash_is_of_the_rules_and_not_of_the_comments(tmp_path: Path) -> None:
    same = changed(tmp_path, "# From when on", "# As from when")
    assert load_thresholds(same).hash == load_thresholds().hash
    other = changed(tmp_path, "alarm = 0.25", "alarm = 0.30")
    assert load_thresholds(other).hash != load_thresholds().hash


@pytest.mark.parametrize(
    ("measure", "value", "given", "state"),
    [
        ("psi", 0.10, {"n": 300}, "good"),
        ("psi", 0.11, {"n": 300}, "warning"),
        ("psi", 0.26, {"n": 300}, "alarm"),
        ("psi", 0.26, {"n": 299}, "not_judged"),
        ("psi", None, {"n": 300}, "not_judged"),
        ("missing_rate_rise", -0.5, {"n": 300}, "good"),
        ("auroc_fall", 0.2, {"n": 500, "events": 50}, "alarm"),
        ("auroc_fall", 0.2, {"n": 500, "events": 49}, "not_judged"),
        ("auroc_fall", 0.2, {"n": 500, "events": 451}, "not_judged"),
        ("auroc_fall", 0.2, {"n": 500}, "not_judged"),
        ("auroc_fall", 0.06, {"n": 500, "events": 50, "interval": (0.01, 0.11)}, "warning"),
        ("auroc_fall", 0.06, {"n": 500, "events": 50, "interval": (0.04, 0.08)}, "alarm"),
        ("auroc_fall", 0.06, {"n": 500, "events": 50, "interval": (-0.01, 0.13)}, "not_judged"),
        ("observed_expected", 0.6, {"n": 500, "events": 50, "interval": (0.3, 1.1)}, "not_judged"),
        ("auroc_fall", 0.06, {"n": 500, "events": 50, "interval": (None, None)}, "alarm"),
        ("observed_expected", 0.6, {"n": 500, "events": 50, "interval": (0.5, 0.7)}, "alarm"),
        ("observed_expected", 0.6, {"n": 500, "events": 50, "interval": (0.4, 0.9)}, "warning"),
        ("observed_expected", 1.5, {"n": 500, "events": 50, "interval": (1.3, 1.7)}, "alarm"),
        ("calibration_slope", 1.0, {"n": 500, "events": 50, "interval": (0.2, 1.8)}, "good"),
    ],
)
def test_the_verdict_on_a_value(measure: Any, value: Any, given: Any, state: str) -> None:
    assert load_thresholds().judge(measure, value, **given) == state
