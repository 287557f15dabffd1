"""Changing a config: read, think, write, under a lease, and only if it is still what was read."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.serving.errors import ConfigHeld, LeaseLost
from airflow_ml.serving.targets.configuration import Edit
from airflow_ml.serving.targets.leases import LEASE_S, Lease, new_holder
from airflow_ml.serving.targets.stores import ConfigStore, Kept, Moved

_PAUSE_S = 0.2

Apply = Callable[[str | None, str, Callable[[str | None], None]], None]


class Writer:
    """One who changes a config.

    Args:
        store: Keeps it.
        holder: Our name in the lease.
        lease_s: For how long we take it.
        patience_s: How long we wait for another's.
        clock: Seconds since 1970.
    """

    def __init__(
        self, store: ConfigStore, holder: str | None = None, *, lease_s: float = LEASE_S, patience_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.store = store
        self.holder = holder or new_holder()
        self._lease_s = lease_s
        self._patience_s = patience_s
        self._clock = clock

    def change(self, edit: Edit, apply: Apply | None = None) -> None:
        """Change the config.

        Args:
            edit: Says what it becomes; called again when somebody without a lease changed it meanwhile.
            apply: Is called while we hold the lease, with the config before and after, and with what renews the lease
                (and, given a text, puts it in the config's place): to be called before each thing that no other writer
                may do at the same time.

        Raises:
            ConfigHeld: Another writer does not let go.
            LeaseLost: Another writer took over; nothing was written after that.
            AirflowMLError: `edit` refuses, or the store does; nothing was changed.
        """
        found = self.store.read()
        if edit(found.text) == found.text and apply is None:
            return
        held = self._taken(found)
        try:
            while True:
                old, text = held.text, edit(held.text)
                try:
                    # with nothing to be done under it, the lease ends in the same write
                    held = self._replaced(held, text, lasting=apply is not None)
                    break
                except Moved:
                    held = self._still_ours()
            if apply is not None:
                apply(old, text, self._renewed)
        finally:
            if held.lease is not None:
                with suppress(AirflowMLError):  # it runs out by itself, and what went wrong before says more
                    self._let_go()

    def _taken(self, found: Kept) -> Kept:
        end = time.monotonic() + self._patience_s
        while True:
            if found.lease is None or not found.lease.shuts_out(self.holder, self._clock()):
                try:
                    return self.store.replace(found, found.text, self._lease())
                except Moved:
                    found = self.store.read()
                    continue
            if time.monotonic() >= end:
                raise ConfigHeld(
                    f"{found.lease.holder} is changing it, for {found.lease.expires - self._clock():.0f} s more",
                    self.store.where,
                    "wait for that writer, or look why it takes so long; then retry",
                )
            time.sleep(_PAUSE_S)
            found = self.store.read()

    def _replaced(self, held: Kept, text: str, lasting: bool) -> Kept:
        if held.lease is None or self._clock() >= held.lease.expires:
            raise self._lost()
        return self.store.replace(held, text, self._lease() if lasting else None)

    def _renewed(self, text: str | None = None) -> None:
        while True:
            held = self._still_ours()
            # what may be done under a lease takes less than half of it
            if text is None and held.lease is not None and held.lease.expires - self._clock() > self._lease_s / 2:
                return
            try:
                self.store.replace(held, held.text if text is None else text, self._lease())
                return
            except Moved:
                continue

    def _still_ours(self) -> Kept:
        """What the store holds, with our lease that has not run out."""
        found = self.store.read()
        if found.lease is None or found.lease.holder != self.holder or self._clock() >= found.lease.expires:
            raise self._lost()
        return found

    def _let_go(self) -> None:
        while True:
            found = self.store.read()
            if found.lease is None or found.lease.holder != self.holder:
                return
            try:
                self.store.replace(found, found.text, None)
                return
            except Moved:
                continue

    def _lease(self) -> Lease:
        return Lease(self.holder, self._clock() + self._lease_s)

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            "the lease ran out before the config was written, and another writer may be at it",
            self.store.where,
            "retry: what was done is found and not done again",
        )
