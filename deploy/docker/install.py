"""Install what one service needs into a folder for its image: `install.py DIRECTORY EXTRA...`.

Versions come from `pyproject.toml`, those of what that needs in turn from `constraints.txt`. The
project itself is not installed: it runs from its source.
"""

import compileall
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from py_compile import PycInvalidationMode

_HERE = Path(__file__).parent
_PIP = (
    sys.executable,
    "-m",
    "pip",
    "install",
    "--no-compile",
    "--no-cache-dir",
    "--root-user-action=ignore",
)


def main(directory: str, *extras: str) -> None:
    """Make a virtual environment with the dependencies of some extras, compiled by content."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    torch = [each for each in wanted if each.startswith("torch==")]
    for requirement in torch:
        _install_torch(requirement, directory)
    _install([each for each in wanted if each not in torch], directory)
    # Some packages bring sources of later Pythons along, which need no cache: nobody imports them.
    compileall.compile_dir(
        f"{directory}/lib", quiet=2, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )


def _install_torch(requirement: str, directory: str) -> None:
    """Install the build for DEVICE; without a CPU build in any index, the one that is there."""
    if os.environ.get("DEVICE", "cpu") == "cpu":
        try:
            _install([f"{requirement}+cpu"], directory)
        except subprocess.CalledProcessError:
            sys.stderr.write("no index has torch for CPUs alone: its CUDA build will do, too\n")
        else:
            return
    _install([requirement.replace("==", "===")], directory)  # exactly this, no local build


def _install(requirements: list[str], directory: str) -> None:
    constraints = ["--constraint", str(_HERE / "constraints.txt")]
    python = f"{directory}/bin/python"
    subprocess.run(
        [*_PIP[:3], "--python", python, *_PIP[3:], *constraints, *requirements], check=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
