"""Energy and CO2 of training, measured by codecarbon."""

from __future__ import annotations

import configparser
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from codecarbon import EmissionsTracker, OfflineEmissionsTracker
from codecarbon.core.config import get_hierarchical_config
from codecarbon.input import DataSource
from codecarbon.output import BaseOutput, EmissionsData

if TYPE_CHECKING:  # the meter alone needs no TensorFlow
    from ..devices.replicas import Replicas
    from .checkpoints import History

METERS = ("intel_rapl", "intel_power_gadget", "powermetrics")
"""codecarbon's modes that read a processor's own counter; its others estimate from the processor's load and model."""
ASSUMED = 46.8, -71.2
"""Latitude and longitude of Quebec, which codecarbon assumes when it cannot find out where it is
(codecarbon/external/geography.py). Its electricity emits a hundredth of the world's average."""
WORLD = "the world"
"""Place in summary.json where the world's average is taken."""


class Energy(NamedTuple):
    """Energy used since the meter started."""

    kilowatt_hours: float
    kilograms_co2: float
    measured: bool
    """Whether the processor's own counter was read, and not estimated; GPUs are always read."""
    place: str
    """Country whose electricity mix the CO2 was computed from, or `WORLD` if the country is not known."""


class _Last(BaseOutput):
    """Receiver of codecarbon's reports that keeps the last one."""

    data: EmissionsData | None = None

    def out(self, total: EmissionsData, delta: EmissionsData):
        self.data = total


class Meter:
    """Meter of this process's energy: processor, memory and, by their counters, GPUs.

    CO2 is computed from the electricity mix of the country, or the cloud's region, that codecarbon's own settings name
    (CODECARBON_COUNTRY_ISO_CODE, or country_iso_code in a file .codecarbon.config), else from the world's average. No
    other host is asked, unless `look_up_country` is True: codecarbon then asks geojs.io or ipinfo.io where this
    machine's address is, and the addresses at which clouds tell their machines where they are.

    Example:
        ```python
        meter = Meter()
        meter.stop().kilowatt_hours  # since the meter was made
        ```
    """

    def __init__(self, look_up_country: bool = False):
        logging.getLogger("codecarbon").disabled = True
        self._last = _Last()
        try:
            named = {"country_iso_code", "cloud_provider"} & set(get_hierarchical_config())
        except configparser.Error as error:
            sentence = str(error).splitlines()[0]
            raise ValueError(
                f"codecarbon cannot read a .codecarbon.config ({sentence}): correct or remove it"
            ) from None
        tracker = EmissionsTracker if look_up_country and not named else OfflineEmissionsTracker
        self._tracker = tracker(
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
            tracking_mode="process",
            output_handlers=[self._last],
        )
        self._tracker.start()

    def read(self) -> Energy:
        """Return the energy used so far."""
        self._tracker.flush()
        return self._energy()

    def stop(self) -> Energy:
        """Stop measuring; return the energy used."""
        self._tracker.stop()
        return self._energy()

    def _energy(self):
        data = self._last.data
        measured = any(getattr(hardware, "_mode", None) in METERS for hardware in self._tracker._hardware)
        used, here = data.energy_consumed, self._tracker._geo
        if data.on_cloud == "Y" or (here.latitude, here.longitude) != ASSUMED:
            return Energy(used, data.emissions, measured, data.country_name or WORLD)
        # codecarbon has computed with Quebec's mix, as it did not learn the place.
        grams = DataSource().get_carbon_intensity_per_source_data()["world_average"]
        return Energy(used, used * grams / 1000, measured, WORLD)


class UsageClock:
    """Clock that adds training's time, and the energy of all workers, to a run's history."""

    def __init__(self, meter: Meter, replicas: Replicas, history: History):
        self._meter, self._replicas, self._history = meter, replicas, history
        self.last = meter.read()
        """Energy at the last lap."""

    def start(self) -> None:
        """Begin a lap."""
        self._started = time.monotonic()

    def lap(self, kind: str = "seconds") -> None:
        """Add the time since the lap began, and the energy since the last lap; begin the next. All workers call this.

        `kind` is the time's name in the history: seconds or evaluation_seconds.
        """
        before, self.last = self.last, self._meter.read()
        local_workers = self._replicas.local_workers  # asks all workers, so not only where there is a counter
        sharing = local_workers if self.last.measured else 1  # a processor's counter is the whole host's
        energy = [(now - then) / sharing for now, then in zip(self.last[:2], before[:2], strict=True)]
        now = time.monotonic()
        self._history.use(now - self._started, kind, *self._replicas.all_reduce_sum(energy))
        self._started = now
