"""What training costs in energy and CO2, by codecarbon."""

from __future__ import annotations

import logging
from typing import NamedTuple

from codecarbon import EmissionsTracker
from codecarbon.output import BaseOutput, EmissionsData

METERS = ("intel_rapl", "intel_power_gadget", "powermetrics")
"""codecarbon's ways to read a processor's own counter; others estimate from its load and its model."""


class Energy(NamedTuple):
    """What was used since the meter started."""

    kilowatt_hours: float
    kilograms_co2: float
    measured: bool
    """Whether the processor's own counter was read, and not estimated; GPUs are always read."""
    place: str
    """Whose mix of power plants the CO2 is that of; without network codecarbon assumes one."""


class _Last(BaseOutput):
    """Keeps what codecarbon reports."""

    data: EmissionsData | None = None

    def out(self, total: EmissionsData, delta: EmissionsData):
        self.data = total


class Meter:
    """Measures this process: processor, memory and, by their counters, GPUs.

    codecarbon asks the network which country this is, and without one goes on.
    """

    def __init__(self):
        logging.getLogger("codecarbon").disabled = True
        self._last = _Last()
        self._tracker = EmissionsTracker(
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
            tracking_mode="process",
            output_handlers=[self._last],
        )
        self._tracker.start()

    def read(self) -> Energy:
        """Return what was used so far."""
        self._tracker.flush()
        return self._energy()

    def stop(self) -> Energy:
        """Return what was used, and end."""
        self._tracker.stop()
        return self._energy()

    def _energy(self):
        data = self._last.data
        measured = any(getattr(hardware, "_mode", None) in METERS for hardware in self._tracker._hardware)
        return Energy(data.energy_consumed, data.emissions, measured, data.country_name or "")
