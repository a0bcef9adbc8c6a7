"""Which requests hold pages: who moves in, grows, follows a prefix, makes room and moves out.

The router's side of the conversation about pages. The KV manager knows what is free; this knows
what is under way, and so decides when to ask, who has to make room, and what is to be sealed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from common.ids import RequestId
from common.messages import (
    FilledPages,
    Hop,
    PagesFilled,
    PagesReleased,
    PagesReserved,
    PrefixAwaited,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    Tables,
    WorkerLost,
)
from common.messages.base import Message
from common.messages.kv import MAX_PAGE_HASHES
from common.policy.admission import GROWTH_AHEAD_TOKENS, OutputShare
from common.runtime.effects import Send
from services.router.effects import Effects
from services.router.followers import Followers
from services.router.membership import Members
from services.router.page_hashes import hash_pages, hashes_between, root_hash
from services.router.page_rules import PageRules, PageTotals
from services.router.page_tables import draw_up, in_parts
from services.router.requests import Cause, Request, Requests, Standing
from services.router.reservations import Reservations

_BEGUN = tuple(standing for standing in Standing if standing is not Standing.WAITING)
"""Their turn has come: they hold pages, or will."""


@dataclass(slots=True)
class Tenancy:
    """Asks for pages and gives them back, one conversation with one KV manager at a time."""

    members: Members
    requests: Requests
    rules: PageRules
    reservations: Reservations = field(default_factory=Reservations)
    totals: PageTotals = field(default_factory=PageTotals)
    output_share: OutputShare = field(default_factory=OutputShare)
    full: bool = False
    """The KV manager has refused; nobody more asks to move in until pages come back."""
    max_reserving: int = field(init=False)
    """Requests that ask to move in at once: doubled by a grant, back to one by a refusal, so that
    after a refusal nobody overtakes the oldest."""
    _room_since: int = 0
    """Refusals of earlier messages than this are out of date: a pool has come since."""
    _hungry: dict[RequestId, Request] = field(default_factory=dict)
    """Those whose growth was refused; they ask again when pages come back, the oldest first."""
    _followers: Followers = field(init=False)
    _drawn_up_in: int = 0
    """Number of the tables that the KV manager was given."""
    _page_size: int = field(init=False)
    _root: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Begin with as many reservations at once as allowed."""
        self.max_reserving = self.rules.max_reserving
        self._followers = Followers(self.requests)
        shape = self.members.shape
        self._page_size = shape.attention.page_size
        self._root = root_hash(shape.model, shape.attention.kv_dtype, self._page_size)

    # Moving in

    def ask(self, now: float) -> Effects:
        """Let as many of those who wait ask to move in as may, the oldest first."""
        if self.full:
            return []
        num_reserving = self.requests.num(Standing.RESERVING)
        num_begun = self.requests.num(*_BEGUN)
        room = min(self.rules.max_requests - num_begun, self.max_reserving - num_reserving)
        waiting = self.requests.by_standing[Standing.WAITING].values()
        effects: Effects = []
        for request in list(islice(waiting, max(room, 0))):
            self.requests.move(request, Standing.RESERVING)
            wanted = min(request.num_tokens + GROWTH_AHEAD_TOKENS, request.max_tokens)
            effects += self._reserve(request, wanted, self._shareable(request), now)
        return effects

    def _shareable(self, request: Request) -> bytes:
        if not self.rules.share_prefixes:
            return b""
        # Its last known token must be computed, whatever is found: only so is there a next one.
        num_pages = min((request.num_tokens - 1) // self._page_size, MAX_PAGE_HASHES)
        hash_pages(request, num_pages, self._page_size, self._root)
        return hashes_between(request, 0, num_pages)

    def _reserve(
        self, request: Request, num_tokens: int, page_hashes: bytes, now: float
    ) -> Effects:
        if self.rules.policy == "guaranteed":
            num_tokens = request.max_tokens
        command = ReservePages(
            number=self.reservations.take_number(),
            request_id=request.request_id,
            moves_in=request.home is None,
            num_tokens=num_tokens,
            expected_tokens=max(num_tokens, self._expected_tokens(request)),
            max_tokens=request.max_tokens,
            page_hashes=page_hashes,
        )
        return self._say(self.reservations.ask(command, now))

    def _expected_tokens(self, request: Request) -> int:
        max_output = request.max_tokens - request.num_prompt
        expected = request.num_prompt + max(
            self.output_share.expected(max_output), request.num_output + GROWTH_AHEAD_TOKENS
        )
        return min(expected, request.max_tokens)

    def _say(self, message: Message) -> Effects:
        hop = self.members.kv_manager()
        return [Send(hop, message)] if hop is not None else []

    def reserved(self, message: PagesReserved, now: float) -> Effects:
        """Take a grant, if its pages are on a worker that still lives."""
        request = self._answered(message)
        if request is None:
            return []
        worker = self.members.current(message.worker_id, message.epoch)
        is_new = request.standing is Standing.RESERVING
        if worker is None:
            assert is_new, "a request lives on a worker that is lost"
            self.requests.put_back([request])
            # The manager has not heard of the loss, or it would go on to grant what is gone.
            return self._say(WorkerLost(worker_id=message.worker_id, epoch=message.epoch))
        if is_new:
            self._move_in(request, message.num_found)
            self.max_reserving = min(2 * self.max_reserving, self.rules.max_reserving)
        request.grow(worker.hop, message.new_pages)
        if request.standing in (Standing.RESERVING, Standing.STARVING):
            self.requests.move(request, Standing.READY)
        self._set_due(request)
        was_hungry = self._hungry.pop(request.request_id, None) is not None
        return self._feed(now) if was_hungry else []

    def _move_in(self, request: Request, num_found: int) -> None:
        request.num_sealed = num_found
        request.num_computed = num_found * self._page_size
        self.totals.admissions += 1
        self.totals.wanted_tokens += request.num_tokens
        self.totals.found_tokens += request.num_computed
        if request.loss is not None:
            cause, num_tokens = request.loss
            self.totals.recomputed_tokens[cause] += max(0, num_tokens - request.num_computed)
            request.loss = None

    def _answered(self, message: PagesReserved | ReserveRefused | PrefixAwaited) -> Request | None:
        asked = self.reservations.answer(message.request_id, message.number)
        return self.requests.find(message.request_id) if asked is not None else None

    def refused(self, message: ReserveRefused, now: float) -> tuple[Effects, Request | None]:
        """Let a request wait for pages that come back, and others make room if it lives somewhere.

        Returns:
            The effects, and the request if it can never move in.
        """
        request = self._answered(message)
        if request is None:
            return [], None
        if request.standing is not Standing.RESERVING:
            self._hungry[request.request_id] = request
            victims = [each for each in map(self.requests.find, message.victims) if each]
            return [e for victim in victims for e in self._vacate(victim, "preempted", now)], None
        self.requests.put_back([request])
        if message.fits_never:
            return [], request
        self.totals.admission_waits += 1
        self.full, self.max_reserving = message.number >= self._room_since, 1
        return [], None

    def pools_changed(self) -> None:
        """Let those who were refused ask again: there is another pool, or one is gone."""
        self.full, self._room_since = False, self.reservations.next_number

    def awaited(self, message: PrefixAwaited, now: float) -> Effects:
        """Let a request wait until its leader has come far enough; if it has by now, ask again."""
        request = self._answered(message)
        if request is None:
            return []
        leader = self.requests.find(message.leader)
        if leader is None or leader.home is None or self._has_told(leader, message):
            self.requests.put_back([request])
            return []
        self._followers.follow(request, leader, message.num_pages)
        return []

    def _has_told(self, leader: Request, message: PrefixAwaited) -> bool:
        return leader.num_sealed >= message.num_pages and leader.sealed_in > message.number

    # Growing

    def settle(self, requests: Iterable[Request], now: float) -> Effects:
        """See to requests that came home: seal full pages, grow ahead of need, make room."""
        filled: list[FilledPages] = []
        effects: Effects = []
        for request in requests:
            if request.num_computed >= request.due_at and not request.has_ended:
                filled += self._fill(request)
                effects += self._see_to(request, now)
        return [*self._tell_filled(filled), *effects]

    def _see_to(self, request: Request, now: float) -> Effects:
        if request.leaves_because is not None:
            return self._send_away(request, request.leaves_because, now)
        effects: Effects = []
        if self._wants_growth(request):
            wanted = min(request.num_computed + GROWTH_AHEAD_TOKENS + 1, request.max_tokens)
            effects = self._reserve(request, wanted, b"", now)
        if request.num_computed >= self._num_slots(request):
            self.requests.move(request, Standing.STARVING)
        self._set_due(request)
        return effects

    def _num_slots(self, request: Request) -> int:
        return len(request.pages) * self._page_size

    def _grow_at(self, request: Request) -> int:
        """Computed tokens at which it must ask for more, or has no slot for the next one."""
        num_slots = self._num_slots(request)
        if num_slots >= request.max_tokens:
            return request.max_tokens
        has_asked = self.reservations.is_reserving(request) or request.request_id in self._hungry
        return num_slots if has_asked else num_slots - GROWTH_AHEAD_TOKENS

    def _wants_growth(self, request: Request) -> bool:
        has_asked = self.reservations.is_reserving(request) or request.request_id in self._hungry
        return not has_asked and request.num_computed >= self._grow_at(request)

    def _set_due(self, request: Request) -> None:
        due_at = self._grow_at(request)
        if self.rules.share_prefixes:
            due_at = min(due_at, (request.num_sealed + 1) * self._page_size)
        request.due_at = due_at

    def _feed(self, now: float) -> Effects:
        """Let the oldest hungry request of each worker ask again."""
        asking: dict[Hop | None, Request] = {}
        for request_id in sorted(self._hungry):
            request = self._hungry[request_id]
            asking.setdefault(request.home, request)
        return [
            effect
            for request in asking.values()
            if not self.reservations.is_reserving(request)
            for effect in self._reserve(request, self._num_slots(request) + 1, b"", now)
        ]

    # Sealing

    def _fill(self, request: Request) -> list[FilledPages]:
        """Note pages that have become full, and wake who waits for them."""
        num_full = request.num_computed // self._page_size
        first = request.num_sealed
        if not self.rules.share_prefixes or num_full <= first:
            return []
        hash_pages(request, num_full, self._page_size, self._root)
        request.num_sealed = num_full
        self._followers.wake(request.request_id, num_full)
        hashes = hashes_between(request, first, num_full)
        return [FilledPages(request_id=request.request_id, first_page=first, page_hashes=hashes)]

    def _tell_filled(self, filled: Sequence[FilledPages]) -> Effects:
        if not filled:
            return []
        number = self.reservations.take_number()
        for each in filled:
            if (request := self.requests.find(each.request_id)) is not None:
                request.sealed_in = number
        return self._say(PagesFilled(number=number, filled=tuple(filled)))

    # Moving out

    def released(self, message: PagesReleased, now: float) -> Effects:
        """Pages came back: those who live somewhere are fed first, then others may ask again."""
        self.reservations.answer(message.request_id, message.number)
        self.full = False
        return self._feed(now)

    def end(self, request: Request, now: float) -> Effects:
        """Give back the pages of a request that has all its tokens; others may find them."""
        self.output_share.observe(request.num_output, request.max_tokens - request.num_prompt)
        return [*self._tell_filled(self._fill(request)), *self.release(request, now)]

    def release(self, request: Request, now: float) -> Effects:
        """Give back all pages of a request that is in no live microbatch."""
        self._forget(request)
        command = ReleasePages(
            number=self.reservations.take_number(), request_id=request.request_id
        )
        return self._say(self.reservations.ask(command, now))

    def move_out(self, home: Hop, now: float) -> Effects:
        """Let all who live on a worker that is drained be computed elsewhere."""
        living = self.requests.living_on(home)
        return [e for request in living for e in self._vacate(request, "drained", now)]

    def _vacate(self, request: Request, cause: Cause, now: float) -> Effects:
        """Have a request give up its pages, as soon as it is home."""
        if request.home is None or request.leaves_because is not None:
            return []
        request.leaves_because, request.due_at = cause, 0
        if request.standing is Standing.IN_FLIGHT:
            return []
        return self._send_away(request, cause, now)

    def _send_away(self, request: Request, cause: Cause, now: float) -> Effects:
        if cause == "preempted":
            self.totals.preemptions += 1
        self.lose([request], cause)
        return self.release(request, now)

    def lose(self, requests: Sequence[Request], cause: Cause) -> None:
        """Let requests whose pages are gone wait again, each at its old place in line."""
        for request in requests:
            self._forget(request)
            self.reservations.void(request.request_id)
            if request.home is not None:
                request.loss = (cause, request.num_computed)
        self.requests.put_back(requests)

    def _forget(self, request: Request) -> None:
        self._hungry.pop(request.request_id, None)
        self._followers.wake(request.request_id)

    # Another KV manager

    def manager_lost(self) -> None:
        """Go on with the pages there are; whoever was about to get more asks the next manager."""
        asking = [self.requests.find(request_id) for request_id in self.reservations.forget()]
        for request in filter(None, asking):
            if request.home is None:
                self.requests.put_back([request])
            else:
                self._hungry[request.request_id] = request
        self.pools_changed()

    def tables(self, holders: Iterable[Request]) -> list[Tables]:
        """Draw up who holds what, for a manager that knows of nobody."""
        self._drawn_up_in = self.reservations.take_number()
        tables = (
            draw_up(request, self._page_size, self._expected_tokens(request)) for request in holders
        )
        return in_parts(self._drawn_up_in, tables)

    def manager_ready(self, now: float) -> Effects:
        """Tell a manager that has the tables what happened since, and ask what is unanswered."""
        sealed_since = [
            FilledPages(
                request_id=request.request_id,
                first_page=0,
                page_hashes=hashes_between(request, 0, min(request.num_sealed, MAX_PAGE_HASHES)),
            )
            for request in self.requests.all()
            if request.sealed_in > self._drawn_up_in
        ]
        asked = (e for command in self.reservations.overdue(now, 0.0) for e in self._say(command))
        return [*self._tell_filled(sealed_since), *asked, *self._feed(now)]

    def repeat(self, now: float, patience_s: float) -> Effects:
        """Say again what the KV manager has not answered, and let the refused try once more.

        A refusal may come after the pages that came back, and a pool may be one that the manager has
        not heard of yet: nobody else would wake those who wait then.
        """
        overdue = self.reservations.overdue(now, patience_s)
        self.full = False
        return [*(effect for command in overdue for effect in self._say(command)), *self._feed(now)]
