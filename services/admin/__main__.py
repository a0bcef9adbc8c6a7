"""The way into `glinthawk`, open before the commands are imported: that takes half a second."""

import signal
import sys

_EXIT_INTERRUPTED = 130


def main() -> None:
    """Run a command; Ctrl-C ends it with one line, however early it comes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    try:
        from services.admin.commands import run_command

        exit_code = run_command()
    except KeyboardInterrupt:
        exit_code = _EXIT_INTERRUPTED
    if exit_code == _EXIT_INTERRUPTED:
        sys.stderr.write("glinthawk: interrupted; nothing is left running\n")
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
