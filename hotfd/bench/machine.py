"""The machine that something was measured on: without it, a figure says nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
from contextlib import suppress
from typing import Final

from hotfd._version import __version__

PACKAGES: Final = ("cffi", "msgspec", "orjson", "uvloop")
"""What the figures depend on beside Python itself."""


def machine() -> dict[str, str | int]:
    """Return what is known of this machine; what cannot be found out is left out.

    Memory is in MiB, limits in descriptors, the load average that of the last minute.
    """
    facts: dict[str, str | int] = {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
    }
    if processor := _field("/proc/cpuinfo", "model name"):
        facts["processor"] = processor
    if memory := _field("/proc/meminfo", "MemTotal"):
        facts["memory_mib"] = int(memory.split()[0]) // 1024
    facts["python"] = f"{platform.python_implementation()} {platform.python_version()}"
    facts["hotfd"] = __version__
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    facts["descriptors_soft"] = soft
    facts["descriptors_hard"] = hard
    for name in ("net.core.somaxconn", "net.ipv4.tcp_mem", "fs.nr_open"):
        with suppress(OSError), open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
            facts[name] = " ".join(file.read().split())
    with suppress(OSError):
        facts["load_average"] = f"{os.getloadavg()[0]:.2f}"
    return facts


def _field(path: str, name: str) -> str:
    """Return the first value of a field of a file of /proc with lines ``name: value``; empty where there is none."""
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
