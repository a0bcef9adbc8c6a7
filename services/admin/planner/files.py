"""Files that a person writes for the planner: YAML, of which JSON is a part, checked by a model."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import SettingsError


class Part(BaseModel):
    """A part of such a file; what is not declared is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Part)


def read_file(path: Path, kind: type[P], what: str) -> P:
    """Read a file.

    Args:
        path: To read.
        kind: What it must be.
        what: The same in words, for messages.

    Raises:
        SettingsError: There is none, or it is not of this form; names what is wrong.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise SettingsError(f"{path} is not {what}: {place}: {first['msg']}") from None
