"""What a report of a problem says about the machine."""

from services.admin.environment import collect


def test_versions_and_variables_are_told(monkeypatch):
    monkeypatch.setenv("GLINTHAWK_LOG_LEVEL", "debug")

    found = collect()

    assert found["package pyzmq"][0].isdigit()
    assert found["variable GLINTHAWK_LOG_LEVEL"] == "debug"


def test_keys_are_hidden(monkeypatch):
    monkeypatch.setenv("GLINTHAWK_ADMIN__API_KEY", "sesame")

    assert "sesame" not in str(collect())
