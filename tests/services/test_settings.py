"""Settings: defaults that need no configuration, addresses of databases, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from services.database.engine import Database
from services.database.migrate import migrate
from services.settings import Settings


def test_without_configuration_everything_lies_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert make_url(settings.database).database == str(tmp_path / "feature-store" / "service.db")
    assert settings.store_url("myeloma") == str(tmp_path / "feature-store" / "stores" / "myeloma")


def test_a_folder_given_relatively_stays_the_same_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=Path("here"))
    assert make_url(settings.database).database == str(tmp_path / "here" / "service.db")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u@h:5433/n", "postgresql+psycopg://u@h:5433/n"),
        ("postgres://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgresql+psycopg://u@h/n", "postgresql+psycopg://u@h/n"),
        ("sqlite:////srv/service.db", "sqlite:////srv/service.db"),
    ],
)
def test_postgresql_is_reached_by_psycopg_3(given, used):
    assert Settings(database_url=given).database == used


@pytest.mark.parametrize("url", ["mysql://u:hidden@h/n", "postgresql+psycopg2://u:hidden@h/n", "h/n", ""])
def test_another_database_is_refused(url):
    with pytest.raises(ValidationError, match=r"expected postgresql://USER@HOST/NAME or sqlite:///PATH"):
        Settings(database_url=url)


@pytest.mark.parametrize(
    "given",
    [
        {"reconcile_s": -1},
        {"sign_s": 301},
        {"sign_s": 0},
        {"key_cache_s": 61},
        {"key_cache_s": -1},
        {"max_object_bytes": 1},
        {"unknown": 1},
    ],
)
def test_a_setting_out_of_range_or_unknown_is_refused(given):
    with pytest.raises(ValidationError):
        Settings(**given)


def test_settings_do_not_change():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.sign_s = 5


@pytest.mark.parametrize("name", ["a?b", "a%20b", "ä ö", "a#b", "a&b=c"])
def test_a_folder_of_any_name_holds_its_own_database(tmp_path, name):
    database = Database(Settings(data=tmp_path / name).database)
    migrate(database)
    database.close()
    assert (tmp_path / name / "service.db").is_file()


def test_a_refused_address_does_not_show_its_password():
    with pytest.raises(ValidationError) as refused:
        Settings(database_url="mysql://user:s3cret@host/name")
    assert "s3cret" not in str(refused.value)
