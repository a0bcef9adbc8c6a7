"""What every test has: both event loops, repeatable examples, and an environment of its own."""

import logging
import os
import signal
import sys

import pytest
import structlog
from hypothesis import settings

from common.runtime.process import set_thread_environment

# Before anything imports torch: tiny models only lose by a second thread that must be woken.
set_thread_environment(1)
# Before anything imports Triton, as torch does: its kernels then run on the processor.
os.environ["TRITON_INTERPRET"] = "1"

# Some tests interrupt what they start, and a shell lets its background jobs inherit deafness to that.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request):
    """Run each asynchronous test on both event loops."""
    return request.param


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch):
    """Keep the settings in the developer's environment out of the tests."""
    for name in [name for name in os.environ if name.startswith("GLINTHAWK_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def logs_restored():
    """Undo what a test does to the logs and threads of its process."""
    handlers, level, interval_s = (
        logging.root.handlers[:],
        logging.root.level,
        sys.getswitchinterval(),
    )
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.root.handlers[:], logging.root.level = handlers, level
    sys.setswitchinterval(interval_s)
