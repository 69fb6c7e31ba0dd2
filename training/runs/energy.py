"""What training costs in energy and CO2, by codecarbon."""

from __future__ import annotations

import configparser
import logging
from typing import NamedTuple

from codecarbon import EmissionsTracker, OfflineEmissionsTracker
from codecarbon.core.config import get_hierarchical_config
from codecarbon.input import DataSource
from codecarbon.output import BaseOutput, EmissionsData

METERS = ("intel_rapl", "intel_power_gadget", "powermetrics")
"""codecarbon's ways to read a processor's own counter; others estimate from its load and its model."""
ASSUMED = 46.8, -71.2
"""Quebec, which codecarbon assumes where it asks in vain where it is (codecarbon/external/geography.py): latitude and
longitude. Its electricity emits a hundredth of the world's average."""
WORLD = "the world"


class Energy(NamedTuple):
    """What was used since the meter started."""

    kilowatt_hours: float
    kilograms_co2: float
    measured: bool
    """Whether the processor's own counter was read, and not estimated; GPUs are always read."""
    place: str
    """The country whose electricity the CO2 is that of, or `WORLD` where the country is not known."""


class _Last(BaseOutput):
    """Keeps what codecarbon reports."""

    data: EmissionsData | None = None

    def out(self, total: EmissionsData, delta: EmissionsData):
        self.data = total


class Meter:
    """Measures this process: processor, memory and, by their counters, GPUs.

    CO2 is by the electricity of the country, or the cloud's region, that codecarbon's own settings name
    (CODECARBON_COUNTRY_ISO_CODE, or country_iso_code in a file .codecarbon.config), else by the world's average. No
    other host is asked, unless `look_up_country`: codecarbon then asks geojs.io or ipinfo.io where this machine's
    address is, and the addresses at which clouds tell their machines where they are.

    Example:

        meter = Meter()
        meter.stop().kilowatt_hours  # since the meter was made
    """

    def __init__(self, look_up_country: bool = False):
        logging.getLogger("codecarbon").disabled = True
        self._last = _Last()
        try:
            named = {"country_iso_code", "cloud_provider"} & set(get_hierarchical_config())
        except configparser.Error as error:
            sentence = str(error).splitlines()[0]
            raise ValueError(f"codecarbon cannot read a .codecarbon.config ({sentence}): mend or remove it") from None
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
        used, here = data.energy_consumed, self._tracker._geo
        if data.on_cloud == "Y" or (here.latitude, here.longitude) != ASSUMED:
            return Energy(used, data.emissions, measured, data.country_name or WORLD)
        grams = DataSource().get_carbon_intensity_per_source_data()["world_average"]
        return Energy(used, used * grams / 1000, measured, WORLD)
