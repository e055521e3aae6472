"""A small colour set of real pictures: 3,786 emoji of 64 x 64, fetched with npm, checked, unpacked into a folder.

    python examples/emoji.py [PACKAGE.tgz]
    python -m vae_fast.train --preset colour --data emoji

The graphics are Twemoji, copyright Twitter, Inc. and other contributors, licensed CC-BY 4.0
(https://creativecommons.org/licenses/by/4.0), in the package emoji-datasource-twitter 16.0.0, licensed MIT. Without an
argument `npm pack` fetches it (62 MB).
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "emoji-datasource-twitter@16.0.0"
SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
INSIDE, OUT = "package/img/twitter/64/", Path("emoji")


def fetched() -> Path:
    if shutil.which("npm") is None:
        sys.exit(f"error: npm is not installed; download {PACKAGE} otherwise, and name the file")
    done = subprocess.run(["npm", "pack", "--silent", PACKAGE], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: npm pack {PACKAGE} failed: {done.stderr.strip() or done.stdout.strip()}")
    return Path(done.stdout.strip())


def unpack(package: Path) -> int:
    """Write the pictures to `OUT`, which must not exist, and return their number."""
    content = package.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        sys.exit(f"error: {package}: expected {PACKAGE} with SHA-256 {SHA256}, got {found}")
    if OUT.exists():
        sys.exit(f"error: {OUT} exists; remove it first")
    part = OUT.with_name(f"{OUT.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    count = 0
    with tarfile.open(package) as archive:
        for member in archive:
            name = member.name.removeprefix(INSIDE)
            if member.isreg() and name != member.name and "/" not in name and name.endswith(".png"):
                file = archive.extractfile(member)
                assert file is not None, "a regular file"
                (part / name).write_bytes(file.read())
                count += 1
    part.rename(OUT)
    return count


if __name__ == "__main__":
    print(f"{unpack(Path(sys.argv[1]) if len(sys.argv) > 1 else fetched()):,} pictures in {OUT}/")
