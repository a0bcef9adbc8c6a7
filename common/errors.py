"""Every error that a caller may handle, in one tree.

    GlinthawkError
    ├── WireError          what a peer sent is not a message
    ├── SettingsError      a setting is unknown, or its value cannot be used
    ├── ModelRefused       a checkpoint cannot be served
    ├── LineRefused        one line of a job cannot be run; the others can
    ├── JobRefused         a whole job cannot be run
    ├── StoreFull          the job store's disk takes nothing more
    ├── OutOfPages         too few pages are available
    ├── PageFault          a page id or position lies outside what its owner declared
    └── PoolTooLarge       the page pool does not fit into memory

A message says in one line what is wrong, with the figures, and what to do about it.
"""


class GlinthawkError(Exception):
    """Anything that this project raises on purpose."""


class WireError(GlinthawkError):
    """What a peer sent is not a message, or not for it to say; nothing was taken from it.

    Attributes:
        kind: What rejections are counted by: `size`, `envelope`, `version`, `tag`, `fields`,
            `tensors`; and where keys guard the way, `key`, `handshake`, `role`, `link`.
    """

    def __init__(self, message: str, *, kind: str = "fields") -> None:
        super().__init__(message)
        self.kind = kind


class SettingsError(GlinthawkError):
    """A setting is unknown, or its value cannot be used; nothing was started."""


class ModelRefused(GlinthawkError):
    """A checkpoint cannot be served; nothing was loaded."""


class LineRefused(GlinthawkError):
    """One line of a job cannot be run; it gets an error line and the job goes on.

    Attributes:
        code: The error's code in the line's result, in OpenAI's words.
        param: The field of the body that is wrong, if it is one field.
    """

    def __init__(
        self, message: str, *, code: str = "invalid_request", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class JobRefused(GlinthawkError):
    """A whole job cannot be run; nothing of it was stored."""


class StoreFull(GlinthawkError):
    """The job store's disk takes nothing more; nothing was stored. Later it may be possible."""


class OutOfPages(GlinthawkError):
    """Too few pages are available. Nothing changed.

    Attributes:
        needed: Pages that were asked for.
        available: Pages that are free or idle.
    """

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(f"{needed} pages are needed, {available} are available")
        self.needed = needed
        self.available = available


class PageFault(GlinthawkError):
    """A page id or position lies outside what its owner declared. Nothing was written."""


class PoolTooLarge(GlinthawkError):
    """The page pool does not fit into memory; no page was kept."""
