"""A process's keys, from its settings: read when it starts, and again when it gets SIGHUP."""

import asyncio
import signal
from typing import Protocol, cast

from common.config import ServiceSettings
from common.errors import SettingsError
from common.log import get_logger
from common.messages.speakers import Speaker
from common.runtime.loop import Part
from common.wire.curve import Locksmith
from common.wire.keys import Keyring

log = get_logger()


class KeyList(Protocol):
    """Keys that were read from files."""

    def reload(self) -> None:
        """Read them again, or raise `SettingsError` and keep the old ones."""
        ...


def open_locksmith(settings: ServiceSettings) -> Locksmith:
    """Read the keys of a service's role, if its settings name a folder of keys.

    Raises:
        SettingsError: The folder lacks a key, or peers would not know this process by it.
    """
    folder, role = settings.key_directory, cast(Speaker, settings.section)
    keyring = None if folder is None else Keyring(folder, role)
    return Locksmith(keyring, insecure=settings.insecure)


def reload_on_hangup(*lists: KeyList | None) -> tuple[Part, ...]:
    """Have lists of keys read again at SIGHUP; None stands for a list that there is not."""
    given = [each for each in lists if each is not None]
    if not given:
        return ()

    def reload() -> None:
        for each in given:
            try:
                each.reload()
            except SettingsError as error:
                log.error("keys not read again", reason=str(error))
            else:
                log.info("keys read again")

    async def live(_: object) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    return (live,)
