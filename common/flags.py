"""Gives a command one flag per setting, so that settings are declared in one place."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Annotated, Any

from common.config import ServiceSettings

Command = Callable[..., None]


def with_flags(
    cls: type[ServiceSettings], option: Callable[..., Any]
) -> Callable[[Command], Command]:
    """Decorate a command so that it takes a flag per setting, with the setting's own help.

    Flags pass on what was typed, as keyword arguments; the settings class checks it as it checks
    every other source.

    Args:
        cls: The service's settings.
        option: Makes the command line library's declaration of a flag from its `help`.
    """

    def decorate(command: Command) -> Command:
        flags = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    bool | None if field.annotation is bool else str | None,
                    option(help=field.description),
                ],
            )
            for name, field in cls.model_fields.items()
        ]
        own = Signature.from_callable(command).parameters.values()
        kept = [parameter for parameter in own if parameter.kind is not Parameter.VAR_KEYWORD]
        command.__signature__ = Signature([*kept, *flags])  # type: ignore[attr-defined]
        return command

    return decorate
