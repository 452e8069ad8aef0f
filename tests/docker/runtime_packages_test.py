#!/usr/bin/env python3
"""docker/packages-runtime.txt names exactly the Debian packages whose libraries the binary loads, so that an image neither
lacks one nor carries one for nothing.

    runtime_packages_test.py PATH_OF_SLUICE
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIST = ROOT / "docker" / "packages-runtime.txt"


def libraries(binary):
    listed = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    assert "not found" not in listed, listed
    return re.findall(r"(/\S+) \(0x", listed)


def package_of(library):
    """dpkg knows a library by the path before or after /usr was merged, and by the link's target."""
    real = pathlib.Path(library).resolve()
    for path in (real, pathlib.Path(str(real).removeprefix("/usr"))):
        found = subprocess.run(["dpkg", "-S", str(path)], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    return None


def main():
    found = {library: package_of(library) for library in libraries(sys.argv[1])}
    strange = [library for library, package in found.items() if not package]
    wanted = set(found.values()) - {None}
    listed = set(re.sub(r"#.*", "", LIST.read_text()).split())
    for library in strange:
        print(f"{library}: belongs to no Debian package")
    if wanted != listed:
        print(f"{LIST.relative_to(ROOT)}: lacks {sorted(wanted - listed)}, has for nothing {sorted(listed - wanted)}")
    good = not strange and wanted == listed
    print(f"runtime packages: {len(listed)} listed, {'as' if good else 'not as'} the binary wants")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
