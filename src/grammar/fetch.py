#!/usr/bin/env python3
"""Fetches the source distribution of a PyPI package and unpacks it: fetch.py NAME VERSION SHA256 FOLDER

Does nothing where FOLDER/NAME-VERSION is there; takes FOLDER/NAME-VERSION.tar.gz where somebody has put it. The archive's SHA-256
must be the one given. pip does the fetching, from wherever it is configured to (in an environment of its own: Debian's python3 may
come without pip).
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile


def download(name, version, folder):
    with tempfile.TemporaryDirectory(dir=folder) as work:
        subprocess.run([sys.executable, "-m", "venv", f"{work}/venv"], check=True)
        subprocess.run([f"{work}/venv/bin/python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--no-binary", name, "--dest", f"{work}/got", f"{name}=={version}"], check=True)
        os.replace(f"{work}/got/{name}-{version}.tar.gz", folder / f"{name}-{version}.tar.gz")


def main():
    name, version, sha256, folder = sys.argv[1], sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
    stem = f"{name}-{version}"
    if (folder / stem).exists():
        return
    folder.mkdir(exist_ok=True)
    archive = folder / f"{stem}.tar.gz"
    if not archive.exists():
        download(name, version, folder)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{archive}: expected SHA-256 {sha256}, found {found}")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        with tarfile.open(archive) as packed:
            packed.extractall(work)
        # In one move: a build beside this one finds all of it or nothing.
        try:
            os.rename(f"{work}/{stem}", folder / stem)
        except OSError:
            if not (folder / stem).exists():
                raise


if __name__ == "__main__":
    main()
