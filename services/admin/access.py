"""What the commands need to get to a router elsewhere: its URL, a key of its API, and whom to trust."""

import ssl
from pathlib import Path
from typing import Annotated, ClassVar, Final

import typer
from pydantic import SecretStr

from common.config import ServiceSettings
from common.errors import SettingsError

HERE: Final = "http://127.0.0.1:8000"
"""Where `glinthawk up` serves if nobody says otherwise."""
URL_VARIABLE: Final = "GLINTHAWK_ADMIN__URL"
RouterUrl = Annotated[str, typer.Option(envvar=URL_VARIABLE, help="Of the router.")]


class AdminSettings(ServiceSettings):
    """What the commands can be told."""

    section: ClassVar[str] = "admin"

    url: str = ""
    """Router to speak to, for commands that are not given `--url`."""
    api_key: SecretStr = SecretStr("")
    """Key of the router's HTTP API, for `--url`; best in the environment, where `ps` shows it to no one."""
    ca_file: Path | None = None
    """Certificates (PEM) that may vouch for the router's; by default this machine's."""


def trusted(settings: AdminSettings) -> ssl.SSLContext:
    """Say which certificates are believed.

    Raises:
        SettingsError: The file cannot be read, or holds none.
    """
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise SettingsError(
            f"{settings.ca_file} holds no certificates ({error}): give PEM"
        ) from None
