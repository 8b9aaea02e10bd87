"""What commands of the service share: where its data lie, and the service opened there; knows no command.

Heavy modules are imported inside the functions, so that --help is instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from store_schema.errors import BackendError, ConfigError, UsageError

if TYPE_CHECKING:
    from services.database.engine import Database
    from services.service import Service
    from services.settings import Settings

_DATA = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    envvar="ENGRAM_SERVICE_DATA",
    show_envvar=True,
    help="Folder of the embedded database and of stores without an address of their own.  [default: ./feature-store]",
)
_DATABASE_URL = click.option(
    "--database-url",
    metavar="URL",
    envvar="ENGRAM_SERVICE_DATABASE_URL",
    show_envvar=True,
    help="postgresql://USER@HOST/NAME instead of the embedded database; the password in PGPASSWORD or ~/.pgpass.",
)


def on_database[F: Callable[..., Any]](command: F) -> F:
    """The command with the options that say where the service's data lie."""
    return _DATA(_DATABASE_URL(command))


def settings_of(**given: object) -> Settings:
    """Settings from options; one that was not given (None) keeps its default.

    Raises
    ------
    ConfigError
        If one is malformed; its value may hold a password and is not repeated.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from services.settings import Settings  # noqa: PLC0415

    try:
        return Settings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        told = [f"--{'-'.join(map(str, one['loc'])).replace('_', '-')}: {one['msg']}" for one in error.errors()]
        raise ConfigError(f"{'; '.join(told)}.") from None


@contextmanager
def opened(settings: Settings, *, new: bool = False) -> Iterator[Service]:
    """The service over a database; what the database refuses becomes an error of one line.

    Parameters
    ----------
    new
        Whether the tables may be absent or old, as before a migration.

    Raises
    ------
    UsageError
        If there is no database, or its tables are not those of this version.
    BackendError
        If the database does not answer, or fails.
    """
    from services.database.migrate import check_current  # noqa: PLC0415
    from services.service import Service  # noqa: PLC0415

    _check_there(settings, new=new)
    service = _usable(lambda: Service.open(settings))
    with _told(service.database):
        try:
            if not new:
                check_current(service.database)
            yield service
        finally:
            service.close()


def _check_there(settings: Settings, *, new: bool) -> None:
    """A mistyped folder gets an error, not an empty database."""
    from sqlalchemy import make_url  # noqa: PLC0415

    url = _usable(lambda: make_url(settings.database))
    if not new and url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise UsageError(
            f"there is no database {url.database}: is --data the folder that `feature-store serve` has? "
            "`feature-store admin migrate` makes a new one."
        )


def _usable[T](make: Callable[[], T]) -> T:
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        return make()
    except (ArgumentError, ValueError):
        raise ConfigError("--database-url is no address: expected postgresql://USER@HOST/NAME.") from None
    except OSError as error:
        raise UsageError(f"the folder of the database cannot be made: {error.strerror} ({error.filename}).") from None


@contextmanager
def _told(database: Database) -> Iterator[None]:
    """Says on the operator's screen what the service tells its log alone."""
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    from services.database.engine import reason  # noqa: PLC0415
    from services.errors import Refusal  # noqa: PLC0415

    try:
        yield
    except DBAPIError as error:
        raise BackendError(f"the database {database.shown} failed: {reason(error)}") from None
    except Refusal as refusal:
        if not isinstance(refusal.__cause__, DBAPIError):
            raise
        raise BackendError(f"the database {database.shown} does not answer: {reason(refusal.__cause__)}") from None
