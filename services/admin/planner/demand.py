"""What requests ask of a cluster on average: memory, positions to look at, prompt rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from services.admin.planner.lengths import Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Averages over the entries of a microbatch, once requests of all ages are under way."""

    held_tokens: float
    """That an entry's request has room for in the page pools."""
    context_tokens: float
    """That the row of a generated token looks at."""
    prompt_rows: float = 0.0
    """Rows of prompts that travel along with each row of a generated token."""
    prompt_context: float = 0.0
    """Tokens that such a row looks at."""
    counted_tokens: float = 1.0
    """Tokens per pass of an entry that count as work done."""

    @classmethod
    def of_lengths(cls, lengths: Sequence[Lengths]) -> Self:
        """Average requests whose prompts travel in chunks, and whose pages are reserved to the end.

        An entry is met as often as its request has passes, so long answers count more.
        """
        passes = sum(each.output for each in lengths)
        prompt = sum(each.prompt for each in lengths)
        held = sum(each.output * (each.prompt + each.limit) for each in lengths)
        seen = sum(each.output * (each.prompt + (each.output + 1) / 2) for each in lengths)
        prompt_seen = sum(each.prompt * (each.prompt + 1) / 2 for each in lengths)
        return cls(
            held_tokens=held / passes,
            context_tokens=seen / passes,
            prompt_rows=prompt / passes,
            prompt_context=prompt_seen / prompt,
        )

    @classmethod
    def token_by_token(cls, max_tokens: int, sharing: float) -> Self:
        """Give what the original assumes: every token of a prompt is a pass of its own.

        Args:
            max_tokens: Of the longest prompt with its answer.
            sharing: How many prompts share the room of the longest one; 1 reserves all of it.
        """
        held = max_tokens / sharing
        return cls(held_tokens=held, context_tokens=held if sharing > 1 else max_tokens / 2)

    def in_chunks(self, prompt_share: float) -> Self:
        """Let prompts that travelled token by token travel in chunks, beside generated tokens.

        Their requests then have fewer passes, but those at which the most is held and looked at.

        Args:
            prompt_share: Of all tokens, those that belong to prompts.
        """
        rows = prompt_share / (1 - prompt_share)
        grows = self.held_tokens <= self.context_tokens
        return replace(
            self,
            held_tokens=self.held_tokens * (1 + prompt_share * grows),
            context_tokens=self.context_tokens * (1 + prompt_share),
            prompt_rows=rows,
            prompt_context=self.context_tokens * prompt_share,
            counted_tokens=1 + rows,
        )

    def sharing_prefix(self, share_of_prompt: float) -> Self:
        """Let requests share a part of their prompts: it is stored and computed once for all."""
        return replace(
            self,
            held_tokens=self.held_tokens - share_of_prompt * 2 * self.prompt_context,
            prompt_rows=self.prompt_rows * (1 - share_of_prompt),
            prompt_context=self.prompt_context * (1 + share_of_prompt),
        )
