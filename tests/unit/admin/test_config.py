"""`glinthawk config show` tells every setting, its value and who decided it."""

import io
import json
from pathlib import Path

import pytest

from common.errors import SettingsError
from services.admin.config import gather, show


def shown(config_file: Path | None = None) -> dict[str, dict[str, str]]:
    out = io.StringIO()
    show(gather(config_file), out, as_json=True)
    settings: dict[str, dict[str, str]] = json.loads(out.getvalue())
    return settings


def test_every_service_is_shown_though_nothing_is_set() -> None:
    sections = {name.partition(".")[0] for name in shown()}

    assert sections == {"router", "layer_worker", "attention_worker", "kv_manager", "admin"}


def test_a_setting_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text("router: {block_size: 16, max_num_seqs: 8}\n")
    monkeypatch.setenv("GLINTHAWK_ROUTER__MAX_NUM_SEQS", "9")

    settings = shown(tmp_path / "settings.yaml")

    assert settings["router.block_size"]["value"] == 16
    assert settings["router.block_size"]["origin"].endswith("settings.yaml")
    assert settings["router.max_num_seqs"] == {
        "value": 9,
        "origin": "GLINTHAWK_ROUTER__MAX_NUM_SEQS",
    }
    assert settings["router.seed"]["origin"] == "default"


def test_a_setting_that_nobody_declared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLINTHAWK_ROUTER__BLOCKSIZE", "16")

    with pytest.raises(SettingsError, match="did you mean GLINTHAWK_ROUTER__BLOCK_SIZE"):
        gather(None)


def test_the_table_for_people_explains_every_setting() -> None:
    out = io.StringIO()

    show(gather(None), out, as_json=False)

    assert "router.block_size" in out.getvalue()
    assert "Tokens per page" in out.getvalue()
