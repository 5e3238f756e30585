"""Memory behind a port: what the simulators model, and the published devices it is calibrated to.

``docs/kv-memory.md`` compares the models with every published point.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from skipopu.accept import BOOLEAN, INTEGER, MAPPING, NUMBER, TEXT, list_of, shown, whole
from skipopu.errors import ConfigError

READS_APART = (
    65  # cycles of a unit's work from a read to its next: what fits generated machines best, 30 and 100 nearly as well
)

# What a description may give for a field, by the field's annotation.
TYPES = {
    "int": INTEGER,
    "float": NUMBER,
    "str": TEXT,
    "bool": BOOLEAN,
    "tuple[str, ...]": list_of(TEXT),
    "MemoryTiming": TEXT | MAPPING,
}


def typed(cls: type, data: Any, where: str) -> dict[str, Any]:
    """A copy of ``data``, the fields of dataclass ``cls``: none is unknown or missing, each has its field's type.

    Raises:
        ConfigError: naming ``where``, the key, its value and what is accepted.
    """
    MAPPING.check(data, f"{where}: the content", ConfigError)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {shown(key)}; known: {', '.join(known)}")
        TYPES[str(known[key].type)].check(value, f"{where}: {key}", ConfigError)
    for name, field in known.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: key {name!r} is missing")
    return dict(data)


@dataclass(frozen=True)
class MemoryTiming:
    """Behaviour of one port's memory in core cycles; the timing engine and the RTL memory read the same numbers.

    Attributes:
        latency: from an accepted read address to its first data beat.
        beats_per_256_cycles: data rate between refreshes; 256 is one beat per cycle.
        refresh_interval: cycles from one refresh to the next; 0 is none.
        refresh: cycles of one refresh, in which nothing moves.
        refresh_together: all ports refresh at the same time, as controllers that leave reset together do; otherwise evenly spread.
        turnaround: cycles that the data bus loses when it changes from reads to writes, and back.
        issue: least number of cycles between two read addresses.
        outstanding: read bursts accepted and not finished.
        channel: log2 of the bytes of a channel behind the port. An address in another channel waits until all reads are answered;
            a machine's ports stay within one channel each.
        device: the device's name, where it was described by one.
    """

    latency: int = 24
    beats_per_256_cycles: int = 256
    refresh_interval: int = 0
    refresh: int = 0
    turnaround: int = 0
    issue: int = 1
    outstanding: int = 16
    channel: int = 40
    device: str = ""
    refresh_together: bool = True

    @property
    def moving(self) -> float:
        """Beats per cycle between refreshes."""
        return self.beats_per_256_cycles / 256

    @property
    def rate(self) -> float:
        """Sustained beats per cycle of one long read."""
        standing = self.refresh / self.refresh_interval if self.refresh_interval else 0.0
        return self.moving * (1 - standing)

    @property
    def refresh_wait(self) -> float:
        """Mean cycles that a unit's read waits for a refresh to end, of reads one after another.

        Of those that a refresh meets only the first waits: it came since the read before, READS_APART and the latency ago.
        """
        if not self.refresh_interval:
            return 0.0
        since = min(self.refresh, READS_APART + self.latency)
        return since * (self.refresh - since / 2) / self.refresh_interval

    def check(self, where: str) -> None:
        """Raises ConfigError for a value outside its range."""
        limits = {
            "latency": (1, 1000),
            "beats_per_256_cycles": (1, 256),
            "refresh_interval": (0, 65535),
            "refresh": (0, max(0, self.refresh_interval - 1)),
            "turnaround": (0, 255),
            "issue": (1, 255),
            "outstanding": (1, 64),
            "channel": (12, 40),
        }
        for field, (least, most) in limits.items():
            value = getattr(self, field)
            if not least <= value <= most:
                raise ConfigError(f"{where}: memory {field} is {value!r}; accepted: {least} to {most}")


@dataclass(frozen=True)
class Dram:
    """A memory channel in time units.

    Attributes:
        name: of the device.
        peak: GB/s of its data bus.
        interval, refresh: ns between refreshes and of one.
        latency: ns, from the port to the first data and back.
        turnaround: ns of one change of the bus's direction.
        switch: ns lost when an AXI ID changes its channel: a round trip, until all reads are answered.
        outstanding: read bursts in flight.
        source: where the numbers come from.
    """

    name: str
    peak: float
    interval: float
    refresh: float
    latency: float
    turnaround: float
    switch: float
    outstanding: int
    source: str

    @property
    def cap(self) -> float:
        """GB/s of one endless read: the peak less the time of refreshes."""
        return self.peak * (1 - self.refresh / self.interval)

    def transaction(self, size: int, switching: float = 0.0, issue: float = 0.0) -> float:
        """Mean ns of reads of ``size`` bytes, a share ``switching`` of which change the channel, at most one per ``issue`` ns."""
        return max(issue, size / self.cap + switching * self.switch)

    def in_flight(self, size: int, bursts: int) -> float:
        """GB/s of reads of ``size`` bytes with ``bursts`` of them in flight: the cap, or what the latency leaves."""
        return min(self.cap, bursts * size / (self.latency + size / self.peak))

    def timing(self, clock_mhz: float, beat_bytes: int) -> MemoryTiming:
        """The channel behind a port of ``beat_bytes`` at ``clock_mhz``."""
        cycles = clock_mhz / 1000  # per ns
        rate = self.peak / (beat_bytes * cycles)
        return MemoryTiming(
            latency=round(self.latency * cycles),
            beats_per_256_cycles=min(256, round(256 * rate)),
            refresh_interval=round(self.interval * cycles),
            refresh=round(self.refresh * cycles),
            turnaround=round(self.turnaround * cycles),
            outstanding=self.outstanding,
            device=self.name,
        )


HBM2 = Dram(
    "hbm2",
    14.4,
    3900.0,
    338.5,
    152.0,
    18.0,
    147.6,
    16,
    "refresh from the measured cap of 13.15 GB/s at JEDEC's interval; channel change fitted to ten published points; latency:"
    " 122 ns page closed and 15-45 ns path, turnaround: typical, neither measured here",
)
DDR4_2400 = Dram(
    "ddr4-2400",
    19.2,
    7800.0,
    350.0,
    95.1,
    15.0,
    0.0,
    4,
    "JEDEC's refresh of 8 Gb parts; latency from 87.6 % of the peak with four bursts of 512 bytes in flight; turnaround: typical",
)
DRAMS = {dram.name: dram for dram in (HBM2, DDR4_2400)}


def memory_timing(value: Any, clock_mhz: float, beat_bytes: int, where: str) -> MemoryTiming:
    """A description's ``memory``: the name of a device, or a mapping of :class:`MemoryTiming`'s fields.

    A mapping that names a ``device`` starts from it; its ``path`` are cycles between port and device that the device's latency
    does not contain, there and back.

    Raises:
        ConfigError: an unknown name or key, or a value outside its range.
    """
    if isinstance(value, str):
        if value not in DRAMS:
            raise ConfigError(f"{where}: memory is {value!r}; accepted: {', '.join(DRAMS)}, or a mapping of cycles")
        value = {"device": value}
    given = dict(MAPPING.check(value, f"{where}: memory", ConfigError))
    path = whole(0, 1000).check(given.pop("path", 0), f"{where}: memory: path", ConfigError)
    fields = typed(MemoryTiming, given, f"{where}: memory")
    device = given.get("device", "")
    if device and device not in DRAMS:
        raise ConfigError(f"{where}: memory: device is {device!r}; accepted: {', '.join(DRAMS)}, or no device at all")
    if device:
        timing = DRAMS[device].timing(clock_mhz, beat_bytes)
        timing = dataclasses.replace(timing, **{"latency": timing.latency + path} | fields)
    elif path:
        raise ConfigError(f"{where}: memory: path is {path} without a device; accepted with device: {', '.join(DRAMS)}")
    else:
        timing = MemoryTiming(**fields)
    timing.check(where)
    return timing
