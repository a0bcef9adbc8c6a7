"""Lists that are shown a page at a time, and things that may not be there."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, overload

from fastapi import HTTPException


class Named(Protocol):
    """What a list shows."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


Thing = TypeVar("Thing")
Item = TypeVar("Item", bound=Named)


class PageOf(NamedTuple, Generic[Item]):
    """A stretch of a list."""

    items: list[Item]
    has_more: bool

    def ends(self) -> dict[str, Any]:
        """Give what a client needs to ask for the next page."""
        return {
            "first_id": self.items[0].id if self.items else None,
            "last_id": self.items[-1].id if self.items else None,
            "has_more": self.has_more,
        }


def page_of(items: Sequence[Item], after: str | None, limit: int) -> PageOf[Item]:
    """Cut a page out of a list: what comes behind the item of an id, or the beginning."""
    ids = [item.id for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    return PageOf(list(items[start : start + limit]), start + limit < len(items))


@overload
def found(thing: None, kind: str, name: str) -> NoReturn: ...
@overload
def found(thing: Thing | None, kind: str, name: str) -> Thing: ...
def found(thing: Thing | None, kind: str, name: str) -> Thing:
    """Give a thing that is there.

    Raises:
        HTTPException: 404, it is not.
    """
    if thing is None:
        raise HTTPException(404, f"there is no {kind} '{name}'")
    return thing
