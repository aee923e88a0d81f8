"""Scenarios: what is sent over which link for how long, read from TOML; named presets lie beside this module."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from shared.errors import PinholeError
from shared.link.config import LinkConfig
from shared.settings import refuse_unknown
from sim.channel import ChannelConfig
from sim.loss import GilbertElliott
from sim.settings import from_table

_TABLES = ("forward", "return", "link", "traffic")


@dataclass(frozen=True)
class ChannelTable:
    """The ``[forward]`` and ``[return]`` tables; see ``ChannelConfig`` for what is not said here.

    Attributes:
        rate: line rate in bit/s; left out: no limit.
        latency: seconds.
        jitter: largest additional delay in seconds.
        keep_order: False lets jitter reorder packets.
        queue_bytes: largest backlog in bytes.
        overhead_bytes: bytes that lower layers add to each packet.
        loss: mean share of packets lost, 0 to below 1.
        burst: mean number of packets lost in a row; left out: losses are independent.
        duplication: probability, 0 to 1.
        corruption: probability, 0 to 1.
        p: of the general loss model, in place of ``loss`` and ``burst``.
        r: the same.
        h: the same.
        k: the same.
    """

    rate: float | None = None
    latency: float = 0.0
    jitter: float = 0.0
    keep_order: bool = True
    queue_bytes: int = 65536
    overhead_bytes: int = 0
    loss: float | None = None
    burst: float | None = None
    duplication: float = 0.0
    corruption: float = 0.0
    p: float | None = None
    r: float | None = None
    h: float = 0.0
    k: float = 1.0

    def build(self, where: str) -> ChannelConfig:
        """Return the channel's configuration.

        Raises:
            PinholeError: if a value is out of range or both loss models are given.
        """
        general = self.p is not None or self.r is not None
        if general and self.loss is not None:
            raise PinholeError(f"{where}: give either loss and burst or p and r, not both")
        if general and (self.p is None or self.r is None):
            raise PinholeError(f"{where}: the general loss model needs both p and r; add the other")
        if self.p is not None and self.r is not None:
            model = GilbertElliott(self.p, self.r, self.h, self.k)
        else:
            loss = self.loss or 0.0
            # Independent loss is the Gilbert chain whose next state does not depend on the present one (p + r = 1).
            independent = 1.0 / (1.0 - loss) if 0.0 <= loss < 1.0 else 1.0
            model = GilbertElliott.from_mean(loss, independent if self.burst is None else self.burst)
        return ChannelConfig(
            rate=self.rate,
            latency=self.latency,
            jitter=self.jitter,
            keep_order=self.keep_order,
            queue_bytes=self.queue_bytes,
            overhead_bytes=self.overhead_bytes,
            loss=model,
            duplication=self.duplication,
            corruption=self.corruption,
        )


@dataclass(frozen=True)
class Traffic:
    """What the senders send: invented layers, or the pictures of a folder.

    Attributes:
        pictures: number of pictures of each sender; with a folder, 0 means each of its pictures once.
        interval: seconds between two pictures of a sender.
        layer_bytes: mean bytes of each layer, the base first (invented layers).
        spread: relative standard deviation of a picture's size (log-normal, all layers of a picture alike); 0 to 2.
        folder: pictures or ``.pin`` files to send, relative to the scenario file; empty: invented layers.
        quality: for the pictures of the folder, 1 upwards; rounded to 1/16.
        bundle: bundle for the pictures of the folder.
    """

    pictures: int = 0
    interval: float = 10.0
    layer_bytes: tuple[int, ...] = (300, 500, 600, 700)
    spread: float = 0.3
    folder: str = ""
    quality: float = 1.0
    bundle: str = "pocket"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            PinholeError: if a value is out of range.
        """
        if self.pictures < 0 or (self.pictures == 0 and not self.folder):
            raise PinholeError(f"[traffic] pictures is {self.pictures}; give 1 or more, or a folder")
        if not 0.0 <= self.interval < float("inf"):
            raise PinholeError(f"[traffic] interval is {self.interval}; give seconds from 0")
        if not 1 <= len(self.layer_bytes) <= 15 or min(self.layer_bytes) < 1:
            raise PinholeError("[traffic] layer_bytes must list 1 to 15 layers of at least 1 byte")
        if not 1.0 <= self.quality < float("inf"):
            raise PinholeError(f"[traffic] quality is {self.quality:g}; give a number from 1")
        if not 0.0 <= self.spread <= 2.0:
            raise PinholeError(f"[traffic] spread is {self.spread}; give 0 to 2")


@dataclass(frozen=True)
class _Head:
    name: str
    description: str = ""
    duration: float = 3600.0
    seed: int = 1
    senders: int = 1
    sealed: bool = True


@dataclass(frozen=True)
class Scenario:
    """One simulation.

    Attributes:
        name: of the scenario.
        description: one sentence for the report.
        duration: virtual seconds after which the simulation ends even if pictures are still under way.
        seed: of all chance.
        senders: number of senders, each with channels of its own.
        sealed: whether packets are sealed, as ``pinhole send`` does.
        forward: channel from a sender to the station.
        back: channel from the station to a sender; None: simplex.
        link: settings of the link core.
        traffic: what is sent.
        folder: where relative paths of the scenario start.
    """

    name: str
    description: str
    duration: float
    seed: int
    senders: int
    sealed: bool
    forward: ChannelConfig
    back: ChannelConfig | None
    link: LinkConfig
    traffic: Traffic
    folder: Path = field(default_factory=Path)


def presets() -> list[str]:
    """Return the names of the presets."""
    folder = resources.files("sim") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_scenario(name_or_path: str, *, seed: int | None = None) -> Scenario:
    """Read a scenario.

    Args:
        name_or_path: a preset's name, or a TOML file.
        seed: in place of the scenario's own.

    Raises:
        PinholeError: if there is no such scenario or it cannot be used.
    """
    path = Path(name_or_path)
    if name_or_path in presets():
        text = (resources.files("sim") / "presets" / f"{name_or_path}.toml").read_text(encoding="utf-8")
        where, folder = f"preset {name_or_path}", Path()
    elif path.suffix == ".toml" or path.exists():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PinholeError(f"{path}: cannot read the scenario ({error}); check the path") from None
        where, folder = str(path), path.parent
    else:
        raise PinholeError(f"no preset '{name_or_path}'; give a .toml file or one of {', '.join(presets())}")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PinholeError(f"{where}: not valid TOML ({error}); mend the file") from None
    scenario = replace(parse_scenario(tables, where), folder=folder)
    return scenario if seed is None else replace(scenario, seed=seed)


def parse_scenario(tables: Mapping[str, object], where: str) -> Scenario:
    """Build a scenario from the content of a TOML file.

    Raises:
        PinholeError: if a name is unknown, a value is out of range or settings contradict each other.
    """
    parts: dict[str, Mapping[str, object]] = {}
    for table in _TABLES:
        part = tables.get(table, {})
        if not isinstance(part, Mapping):
            raise PinholeError(f"{where}: '{table}' must be a table; write [{table}]")
        parts[table] = part
    rest = {name: value for name, value in tables.items() if name not in _TABLES}
    refuse_unknown(rest, [*_Head.__dataclass_fields__, *_TABLES], where)
    head = from_table(_Head, rest, where)
    if not 0.0 < head.duration < float("inf"):
        raise PinholeError(f"{where}: duration is {head.duration}; give seconds above 0")
    if not 1 <= head.senders <= 10_000:
        raise PinholeError(f"{where}: senders is {head.senders}; give 1 to 10000")
    if head.seed < 0:
        raise PinholeError(f"{where}: seed is {head.seed}; give a whole number from 0")
    try:
        forward = from_table(ChannelTable, parts["forward"], f"{where} [forward]").build("[forward]")
        back = from_table(ChannelTable, parts["return"], f"{where} [return]").build("[return]")
        link = _link(parts["link"], where, simplex="return" not in tables)
        traffic = from_table(Traffic, parts["traffic"], f"{where} [traffic]")
    except PinholeError as error:
        raise error if str(error).startswith(where) else PinholeError(f"{where}: {error}") from None
    return Scenario(
        head.name,
        head.description,
        head.duration,
        head.seed,
        head.senders,
        head.sealed,
        forward,
        None if link.simplex else back,
        link,
        traffic,
    )


def _link(table: Mapping[str, object], where: str, *, simplex: bool) -> LinkConfig:
    link = from_table(LinkConfig, table, f"{where} [link]")
    if "simplex" in table and link.simplex != simplex:
        raise PinholeError(f"{where}: [link] simplex contradicts the [return] table; drop one of the two")
    return replace(link, simplex=simplex)
