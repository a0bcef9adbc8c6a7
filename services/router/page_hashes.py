"""What a page is found by: a hash of its tokens, of how they are computed, and of all before it."""

from hashlib import blake2b

from common.messages.kv import HASH_BYTES
from services.router.requests import Request


def root_hash(*facts: object) -> bytes:
    """Give what the chains of a cluster begin with: what else decides keys and values.

    Args:
        facts: Fingerprint of the model, dtype of keys and values, page size.
    """
    return blake2b(repr(facts).encode(), digest_size=HASH_BYTES).digest()


def hash_pages(request: Request, num_pages: int, page_size: int, root: bytes) -> None:
    """Extend a request's hashes to its first `num_pages` pages, whose tokens are all known.

    Prompt positions and generated ones are computed by different kernels, so that equal tokens
    need not have equal bits: how many positions of the page are of the prompt is hashed, too.
    """
    hashes = request.page_hashes
    for page in range(len(hashes) // HASH_BYTES, num_pages):
        start = page * page_size
        num_prompt = min(max(request.num_prompt - start, 0), page_size)
        digest = blake2b(bytes(hashes[-HASH_BYTES:]) or root, digest_size=HASH_BYTES)
        digest.update(num_prompt.to_bytes(4, "little"))
        digest.update(request.tokens[start : start + page_size].tobytes())
        hashes += digest.digest()


def hashes_between(request: Request, first_page: int, stop_page: int) -> bytes:
    """Give the hashes of pages `[first_page, stop_page)`."""
    return bytes(request.page_hashes[first_page * HASH_BYTES : stop_page * HASH_BYTES])
