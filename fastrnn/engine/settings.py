"""Settings: each has a default for the process and, inside ``with``, a value for the current context only.

Contexts are those of :mod:`contextvars`: a new thread starts with the defaults, an asyncio task with those in force
where it was created. A call reads all settings once, at its start, with :func:`current`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Settings:
    """The values of all settings for one call."""

    backend: str
    num_threads: int
    matmul_precision: str


class Setting(Generic[T]):
    """One setting.

    Parameters
    ----------
    name : str
        A field of :class:`Settings`.
    first : callable
        Returns the default as long as none has been set; called once.
    """

    def __init__(self, name: str, first: Callable[[], T]) -> None:
        self.name = name
        self._first = first
        self._default: T | None = None
        _settings[name] = self

    def get(self) -> T:
        """The value in force here."""
        inside = _inside.get()
        value = None if inside is None else inside.value(self)
        return self.default() if value is None else value

    def default(self) -> T:
        """The process's default."""
        with _lock:
            if self._default is None:
                self._default = self._first()
            return self._default

    def set(self, value: T) -> None:
        """Make `value` the process's default."""
        _settle()
        self._set(value)

    def _set(self, value: T) -> None:
        global _defaults
        with _lock:
            self._default, _defaults = value, None


class Use(Generic[T]):
    """Context manager: a value of a setting in the context that enters it.

    It can be entered any number of times, also nested in itself and by several threads at once.
    """

    def __init__(self, setting: Setting[T], value: T) -> None:
        self.setting, self.value = setting, value
        self.entered = False

    def __enter__(self) -> None:
        self.entered = True
        inside = _inside.get() or _Inside()
        _inside.set(_Inside((*inside.uses, self), inside.unsettled))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        inside = _inside.get() or _Inside()
        uses = inside.uses
        # Wherever it stands: a generator may leave its context after contexts that were entered later.
        for i in reversed(range(len(uses))):
            if uses[i] is self:
                uses = uses[:i] + uses[i + 1 :]
                break
        _inside.set(_Inside(uses, inside.unsettled) if uses or inside.unsettled else None)

    def __repr__(self) -> str:
        return f"<fastrnn {self.setting.name}: {self.value}>"


class _Inside:
    """The state of a context, immutable except for the cached `remembered`.

    uses : the values entered, innermost last
    unsettled : see :func:`set_unless_entered`
    pinned : fixed values of all settings, whatever happens to the defaults
    """

    __slots__ = ("pinned", "remembered", "unsettled", "uses")

    def __init__(
        self,
        uses: tuple[Use[Any], ...] = (),
        unsettled: tuple[tuple[Use[Any], Callable[[], None]], ...] = (),
        pinned: Settings | None = None,
    ) -> None:
        self.uses, self.unsettled, self.pinned = uses, unsettled, pinned
        # The defaults, and the settings that follow from them here.
        self.remembered: tuple[Settings, Settings] | None = None

    def value(self, setting: Setting[T]) -> T | None:
        """The value of `setting` in this context; None for its default."""
        if self.pinned is not None:
            return getattr(self.pinned, setting.name)  # type: ignore[no-any-return]
        if self.unsettled:
            _settle()
        return next((use.value for use in reversed(self.uses) if use.setting is setting), None)

    def settings(self) -> Settings:
        if self.pinned is not None:
            return self.pinned
        if self.unsettled:
            _settle()
        over = _defaults or _read_defaults()
        if self.remembered is None or self.remembered[0] is not over:
            self.remembered = over, replace(over, **{use.setting.name: use.value for use in self.uses})
        return self.remembered[1]


_settings: dict[str, Setting[Any]] = {}
_lock = threading.RLock()
_defaults: Settings | None = None
_inside: ContextVar[_Inside | None] = ContextVar("fastrnn_settings", default=None)


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    # It may have been held by a thread that the forked child does not have.
    os.register_at_fork(after_in_child=_new_lock)


def current() -> Settings:
    """The values of all settings in the current context."""
    inside = _inside.get()
    if inside is None:
        return _defaults or _read_defaults()
    return inside.settings()


def _read_defaults() -> Settings:
    global _defaults
    with _lock:
        _defaults = Settings(*(_settings[field.name].default() for field in fields(Settings)))
        return _defaults


class pinned:
    """Context manager around a call: everything in it sees the settings of its beginning."""

    def __enter__(self) -> None:
        self._token = _inside.set(_Inside(pinned=current()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _inside.reset(self._token)


def set_unless_entered(use: Use[Any], tell: Callable[[], None]) -> None:
    """Treat `use` as a plain call if it has not been entered when this context next reads or sets a setting.

    Then its value becomes the default, and `tell` is called.
    """
    inside = _inside.get() or _Inside()
    open_still = tuple(pair for pair in inside.unsettled if not pair[0].entered)
    _inside.set(_Inside(inside.uses, (*open_still, (use, tell))))


def _settle() -> None:
    while (inside := _inside.get()) is not None and inside.unsettled:
        (use, tell), *others = inside.unsettled
        _inside.set(_Inside(inside.uses, tuple(others)) if inside.uses or others else None)
        if not use.entered:
            use.setting._set(use.value)
            tell()
