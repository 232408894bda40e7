"""Builds the C core; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build_core.py:ffibuilder"],
    # The core uses the stable ABI, so one wheel serves Python 3.11 and whatever comes after it.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
