"""The lock for a site without internet: some packages come as source only, so `make wheels` builds their wheels.

    offline_lock.py LOCK WHEELS     writes LOCK to standard output, each such package with the hash of its built wheel

Every other package keeps the hashes of the lock. The hashes of built wheels are noted in WHEELS/built.txt when the
folder is filled (`--note`), and only those are taken: a wheel that was changed on its way over is refused.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

NOTE = "built.txt"


def main(arguments: list[str]) -> int:
    """Notes built wheels (`--note`), or prints the lock that names them."""
    note_only = "--note" in arguments
    lock, wheels = (Path(argument) for argument in arguments if argument != "--note")
    if note_only:
        (wheels / NOTE).write_text("".join(find_built(lock.read_text(), wheels)))
    else:
        sys.stdout.write(merge(lock.read_text(), (wheels / NOTE).read_text()))
    return 0


def find_built(lock: str, wheels: Path) -> list[str]:
    """A requirement line with its hash for each wheel of a locked package whose hash the lock does not know."""
    locked = {normal(match[1]): match[2] for match in re.finditer(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", lock)}
    lines = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest not in lock and locked.get(normal(name)) == version:
            lines.append(f"{normal(name)}=={version} --hash=sha256:{digest}\n")
    return lines


def merge(lock: str, built: str) -> str:
    """The lock with the noted lines in place of those of the same packages."""
    replaced = {line.split("==")[0]: line for line in built.splitlines(keepends=True)}
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    return "".join(replaced.get(normal(block.split("==")[0]), block) for block in blocks)


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
