"""The logprobs of a choice, while it is being generated."""

from dataclasses import dataclass, field

from services.router.lines import TokenLogprobs


@dataclass(slots=True)
class Logprobs:
    """The logprobs of a choice, as they come home."""

    chosen: list[float] = field(default_factory=list)
    top_tokens: list[tuple[int, ...]] = field(default_factory=list)
    top_logprobs: list[tuple[float, ...]] = field(default_factory=list)

    def extend(self, columns: TokenLogprobs) -> None:
        """Append the columns of tokens that an earlier life of the router had generated."""
        self.chosen += columns.chosen
        self.top_tokens += columns.top_tokens
        self.top_logprobs += columns.top_logprobs

    def freeze(self, start: int = 0) -> TokenLogprobs:
        """Give the columns as they are now, from a token on."""
        return TokenLogprobs(
            chosen=tuple(self.chosen[start:]),
            top_tokens=tuple(self.top_tokens[start:]),
            top_logprobs=tuple(self.top_logprobs[start:]),
        )

    def newest(self) -> TokenLogprobs:
        """Give the columns of the last token alone."""
        return TokenLogprobs(
            chosen=(self.chosen[-1],),
            top_tokens=(self.top_tokens[-1],),
            top_logprobs=(self.top_logprobs[-1],),
        )
