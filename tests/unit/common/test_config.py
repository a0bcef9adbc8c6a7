"""Settings come from four places, the nearest to the user wins, and nothing unknown is passed over."""

from typing import ClassVar

import pytest
from pydantic import Field, model_validator

from common.config import ServiceSettings, describe, load_settings
from common.errors import SettingsError


class RouterSettings(ServiceSettings):
    """The settings of a service under test."""

    section: ClassVar[str] = "router"

    in_flight: int = Field(default=4, ge=1)
    """Microbatches under way."""
    windows: tuple[int, ...] = ()
    data_dir: str = "data"

    @model_validator(mode="after")
    def _check(self):
        if self.data_dir == "/":
            raise ValueError("the data directory cannot be the root")
        return self


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "glinthawk.yaml"
    path.write_text(
        "common: {host: from-common, log_level: debug}\n"
        "router: {in_flight: 5, log_level: error}\n"
        "kv_manager: {anything: 1}\n"
    )
    return path


def test_without_any_source_the_defaults_hold():
    settings = load_settings(RouterSettings, {})

    assert settings.in_flight == 4
    assert settings.log_level == "info"


def test_a_section_of_the_file_wins_over_its_common_part(config_file):
    settings = load_settings(RouterSettings, {}, config_file)

    assert (settings.in_flight, settings.log_level, settings.host) == (5, "error", "from-common")


def test_the_environment_wins_over_the_file(config_file, monkeypatch):
    monkeypatch.setenv("GLINTHAWK_CONFIG", str(config_file))
    monkeypatch.setenv("GLINTHAWK_HOST", "shared")
    monkeypatch.setenv("GLINTHAWK_ROUTER__IN_FLIGHT", "6")
    monkeypatch.setenv("GLINTHAWK_ROUTER__WINDOWS", "[1, 2]")

    settings = load_settings(RouterSettings, {})

    assert (settings.in_flight, settings.host, settings.windows) == (6, "shared", (1, 2))


def test_a_service_s_own_variable_wins_over_the_shared_one(monkeypatch):
    monkeypatch.setenv("GLINTHAWK_HOST", "shared")
    monkeypatch.setenv("GLINTHAWK_ROUTER__HOST", "own")

    settings = load_settings(RouterSettings, {})

    assert settings.host == "own"


def test_the_command_line_wins_over_all_and_an_absent_flag_over_nothing(monkeypatch):
    monkeypatch.setenv("GLINTHAWK_ROUTER__IN_FLIGHT", "6")
    monkeypatch.setenv("GLINTHAWK_ROUTER__DATA_DIR", "from-environment")

    settings = load_settings(RouterSettings, {"in_flight": 7, "data_dir": None})

    assert (settings.in_flight, settings.data_dir) == (7, "from-environment")


def test_each_setting_says_where_its_value_came_from(config_file, monkeypatch):
    monkeypatch.setenv("GLINTHAWK_INSECURE", "true")

    described = describe(load_settings(RouterSettings, {"data_dir": "here"}, config_file))

    origins = {setting.name: setting.origin for setting in described}
    assert origins["router.data_dir"] == "--data-dir"
    assert origins["router.insecure"] == "GLINTHAWK_INSECURE"
    assert origins["router.in_flight"] == f"router.in_flight in {config_file}"
    assert origins["router.ordinal"] == "default"
    about = next(setting.about for setting in described if setting.name == "router.in_flight")
    assert about == "Microbatches under way."


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("router: {in_flihgt: 5}", "in_flihgt in section router .* did you mean in_flight?"),
        ("common: {in_flight: 5}", "in_flight in section common"),
        ("ruoter: {in_flight: 5}", "ruoter .* did you mean router?"),
        ("router: {in_flight: many}", "router.in_flight in .*integer.*'many'"),
        ("router: 5", "router must be a mapping"),
        ("- 5", "must map sections"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_with_a_mistake_stops_the_process(tmp_path, text, complaint):
    path = tmp_path / "glinthawk.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=complaint) as refusal:
        load_settings(RouterSettings, {}, path)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("GLINTHAWK_ROUTER__IN_FLIHGT", "5", "did you mean GLINTHAWK_ROUTER__IN_FLIGHT?"),
        ("GLINTHAWK_HOTS", "h", "did you mean GLINTHAWK_HOST?"),
        ("GLINTHAWK_RUOTER__HOST", "h", "unknown setting GLINTHAWK_RUOTER__HOST"),
        ("GLINTHAWK_ROUTER__IN_FLIGHT", "0", "GLINTHAWK_ROUTER__IN_FLIGHT: .*greater than"),
        ("GLINTHAWK_ROUTER__WINDOWS", "[1,", "windows"),
        ("GLINTHAWK_BIND", "7400", "GLINTHAWK_BIND: .*pattern"),
        ("GLINTHAWK_CONFIG", "/nowhere.yaml", "cannot read the settings file /nowhere.yaml"),
    ],
)
def test_a_variable_with_a_mistake_stops_the_process(monkeypatch, variable, value, complaint):
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=complaint) as refusal:
        load_settings(RouterSettings, {})

    assert "\n" not in str(refusal.value)


def test_variables_of_other_services_are_theirs_to_check(monkeypatch):
    monkeypatch.setenv("GLINTHAWK_KV_MANAGER__ANYTHING", "5")

    settings = load_settings(RouterSettings, {})

    assert settings.in_flight == 4


def test_a_rule_over_several_settings_is_told_in_one_line():
    with pytest.raises(SettingsError, match=r"^router: the data directory cannot be the root$"):
        load_settings(RouterSettings, {"data_dir": "/"})


def test_a_missing_setting_is_told_with_the_ways_to_give_it():
    class NeedsModel(ServiceSettings):
        section: ClassVar[str] = "layer_worker"
        model: str

    with pytest.raises(SettingsError, match="--model, GLINTHAWK_LAYER_WORKER__MODEL or layer_wo"):
        load_settings(NeedsModel, {})
