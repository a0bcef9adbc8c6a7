"""The engine that attends to nothing: a shard takes the time that a profile gives it."""

from common.errors import SettingsError
from common.messages import AttentionRequest, AttentionRole
from common.messages.entries import NUM_ROWS, START, is_local
from common.messages.tensor import DTYPE_BYTES
from common.policy.profile import AttentionWork, Profile
from common.runtime.emulation import EmulatedTime, Zeros
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.compute import count_pages
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.memory import free_memory_bytes
from services.attention_worker.work import (
    AllocatePool,
    Attend,
    Attended,
    PoolAllocated,
    Work,
    Write,
    WriteDone,
)


class EmulatedCompute:
    """Has pages without memory, and gives zeros of the right shape after the right time."""

    def __init__(
        self, settings: AttentionWorkerSettings, profile: Profile, time: EmulatedTime
    ) -> None:
        """Take the place of a real engine.

        Raises:
            SettingsError: The profile is not about attention.
        """
        if profile.attention is None:
            raise SettingsError(f"the profile of {profile.node} has no attention: take another")
        self._times = profile.attention
        self._settings = settings
        self._time = time
        self._zeros = Zeros()
        self._role: AttentionRole | None = None

    def __call__(self, work: Work) -> PoolAllocated | Attended | WriteDone:
        """Do one piece of work.

        Raises:
            PoolTooLarge: The pool would hold no page.
        """
        match work:
            case AllocatePool(role=role):
                self._role = role
                return PoolAllocated(role=role, num_pages=self._count_pages(role))
            case Attend(request=request):
                return self._attend(request)
            case Write(request=request):
                return WriteDone(request=request)

    def _count_pages(self, role: AttentionRole) -> int:
        """Take the settings at their word: pages that nobody fills fit into any machine."""
        shape = CacheShape(
            num_layers=role.num_layers,
            num_kv_heads=role.num_kv_heads,
            head_size=role.head_size,
            page_size=role.page_size,
            dtype=role.kv_dtype,
        )
        wanted = self._settings.kv_memory
        free_bytes = free_memory_bytes() if wanted == "auto" else wanted
        return count_pages(shape.bytes_per_page, role.useful_pages, self._settings, free_bytes)

    def _attend(self, request: AttentionRequest) -> Attended:
        role = self._role
        assert role, "the state computes only once the pool is allocated"
        entries = request.entries.numpy()
        query_size = role.num_heads * role.head_size
        num_local = int(entries[is_local(entries), NUM_ROWS].sum())
        work = AttentionWork.of(
            entries[:, START],
            entries[:, NUM_ROWS],
            role.sliding_windows[request.layer],
            query_size=query_size,
            kv_bytes_per_token=2 * role.num_kv_heads * role.head_size * DTYPE_BYTES[role.kv_dtype],
        )
        return Attended(
            request=request,
            log_sums=self._zeros.tensor("fp32", num_local, role.num_heads) if num_local else None,
            output=self._zeros.tensor(request.qkv.dtype, request.qkv.shape[0], query_size),
            engine_s=self._time.spend(self._times.attend(work)),
        )
