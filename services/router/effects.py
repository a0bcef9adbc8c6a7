"""What the router's state wants done."""

from common.runtime.effects import Effect
from services.router.lines import LineNews

RouterEffect = Effect | LineNews

Effects = list[RouterEffect]
"""In the order in which they are to be carried out."""
