"""Backends: each turns a plan and arrays into a run."""

from .registry import available_backends, get_backend, set_backend, use_backend

__all__ = ["available_backends", "get_backend", "set_backend", "use_backend"]
