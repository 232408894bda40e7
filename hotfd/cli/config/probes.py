"""What ``hotfd doctor`` looks at for configuration: nothing of it is needed by servers that have none."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from typing import Final

from hotfd.cli.probes import PROBE_TIMEOUT, Probe, Seen

EXTRAS: Final = ("jsonschema", "PyYAML", "aiohttp")
"""Packages that some can do without: a check against schemas when publishing, files in YAML, etcd."""

REPOSITORIES: Final = ("git", "svn")

_LIMITS: Final = "/proc/sys/fs/inotify"


def _extras() -> Seen:
    return Seen("ok", ", ".join(f"{name} {_version(name)}" for name in EXTRAS))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (optional)"


def _repositories() -> Seen:
    return Seen("ok", ", ".join(shutil.which(name) or f"{name} not installed (optional)" for name in REPOSITORIES))


def _scripts() -> Seen:
    from hotfd.publish.warden import NAMESPACES, PRLIMIT

    command = [*NAMESPACES, PRLIMIT, "--nproc", "--", "/bin/true"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=PROBE_TIMEOUT)
    if done.returncode == 0:
        return Seen("ok", "in namespaces of their own, without a network")
    return Seen("warn", done.stderr.decode(errors="replace").strip() or "with the network of whoever publishes")


def _watches() -> Seen:
    from hotfd import _core

    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_core.watch_directory(directory))
    except OSError as exc:
        return Seen("warn", f"no ({exc.strerror}); {_limit('max_user_instances')} instances for each user")
    finally:
        os.close(directory)
    return Seen("ok", f"{_limit('max_user_instances')} instances for each user, {_limit('max_user_watches')} watches")


def _limit(name: str) -> str:
    with open(f"{_LIMITS}/{name}", encoding="ascii") as file:
        return file.read().strip()


CONFIGURATION: Final = (
    Probe(
        "config extras",
        _extras,
        "checks releases against schemas, reads YAML, speaks with etcd",
        "pip install 'hotfd[config,etcd]'",
    ),
    Probe("config repositories", _repositories, "configuration is published from them", "install git or subversion"),
    Probe(
        "config scripts",
        _scripts,
        "runs the scripts of releases where they can do little harm (hotfd config publish --allow-scripts)",
        "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces;\n"
        "without them scripts run with limits, and with a network",
    ),
    Probe(
        "config watches",
        _watches,
        "tells servers at once that a directory has a new release (inotify)",
        "raise fs.inotify.max_user_instances; until then servers look at each interval",
    ),
)
"""What is looked at, in the order in which it is shown."""
