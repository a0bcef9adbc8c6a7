"""Whether the same sources give the same images, built twice and without any cache.

    python -m benchmarks.same_images

Compared is each file of an image: its name, owner, mode, content or target. Times are not: an engine of
its own age sets them (docs/operations.md). Needs a Docker engine with Compose; ends with an error code if
anything differs.
"""

import hashlib
import json
import subprocess
import tarfile
import time

import typer

from tests.support.containers import TARGETS, docker

Files = dict[str, tuple[str | int, ...]]


def main(show: int = 10) -> None:
    """Build, list, build, compare; print a line for each image, with some names that differ."""
    first = _build()
    second = _build()
    has_failed = False
    for target, files in first.items():
        again = second[target]
        names = sorted(
            name for name in files.keys() | again.keys() if files.get(name) != again.get(name)
        )
        has_failed |= bool(names)
        figures = {"image": target, "files": len(files), "differ": len(names)}
        print(json.dumps({**figures, "names": names[:show]}), flush=True)
    raise typer.Exit(has_failed)


def _build() -> dict[str, Files]:
    """Build every image anew, and list what is in it."""
    started_s = time.monotonic()
    words = ("compose", "--profile", "tools", "build", "--no-cache", "--quiet")
    docker(*words, timeout_s=1800)
    print(json.dumps({"build_s": round(time.monotonic() - started_s, 1)}), flush=True)
    return {target: _files(f"glinthawk-{target}") for target in TARGETS}


def _files(image: str) -> Files:
    """Give all files of an image, by name: kind, mode, owner, group, and content or target."""
    container = docker("create", image)
    with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
        assert export.stdout
        with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
            found = {each.name: _describe(archive, each) for each in archive}
    docker("rm", container)
    return found


def _describe(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> tuple[str | int, ...]:
    content = archive.extractfile(entry) if entry.isreg() else None
    target = hashlib.sha256(content.read()).hexdigest() if content else entry.linkname
    return (entry.type.decode(), entry.mode, entry.uid, entry.gid, target)


if __name__ == "__main__":
    typer.run(main)
