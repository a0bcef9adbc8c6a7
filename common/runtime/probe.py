"""`python -m common.runtime.probe URL`: exit 0 if the answer is a success, for images without a shell."""

import sys
from urllib.request import urlopen

_TIMEOUT_S = 2.0


def main(url: str) -> int:
    """Ask once; nobody there, a refusal and silence are all 1."""
    try:
        with urlopen(url, timeout=_TIMEOUT_S):
            return 0
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
