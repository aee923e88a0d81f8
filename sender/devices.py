"""Where the sender's float networks run: the CPU, or a GPU through ONNX Runtime's CUDA or TensorRT provider."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sender.tiles import TILE
from shared.errors import PinholeError

if TYPE_CHECKING:
    from sender.encoder import OnnxEncoder
    from shared.codec.bundle import Bundle
    from shared.codec.onnx_session import Provider


class Device(StrEnum):
    """What ``--device`` takes; ``auto`` is the GPU where ONNX Runtime has CUDA, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_WANTED = {Device.CUDA: _CUDA, Device.TENSORRT: _TENSORRT}

DeviceOption = Annotated[
    Device,
    typer.Option(
        help="Where the networks run; auto takes CUDA where ONNX Runtime has it.", metavar="auto|cpu|cuda|tensorrt"
    ),
]
TileOption = Annotated[
    int,
    typer.Option(
        help="Side of the tiles that large pictures are cut into, in pixels; 0 for none. More takes more memory.",
        metavar="N",
    ),
]


def choose_providers(device: Device, available: list[str]) -> "list[Provider]":
    """Return ONNX Runtime's execution providers for a device, the preferred one first.

    Args:
        device: what the user wants.
        available: the providers that the installed ONNX Runtime has.

    Raises:
        PinholeError: if the device is asked for and the installed ONNX Runtime was built without it.
    """
    if device in _WANTED and _WANTED[device] not in available:
        raise PinholeError(
            f"--device {device}: the installed ONNX Runtime has no {_WANTED[device]}; install onnxruntime-gpu "
            "(pip install 'pinhole-link[sender-gpu]') in the place of onnxruntime, or pass --device cpu"
        )
    providers: list[Provider] = []
    if device is Device.TENSORRT:
        # Engines are built for minutes; the cache keeps them for the next start.
        cache = {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(_engine_cache()),
            "trt_fp16_enable": True,
        }
        providers.append((_TENSORRT, cache))
    if device is not Device.CPU and _CUDA in available:
        providers.append(_CUDA)
    return [*providers, _CPU]


def open_encoder(bundle: "Bundle", device: Device = Device.AUTO, tile: int = TILE) -> "OnnxEncoder":
    """Open a bundle's encoder on a device.

    Args:
        bundle: the bundle.
        device: where its networks run.
        tile: side of a tile in pixels, 0 for none.

    Raises:
        PinholeError: if the device cannot be had, or as the encoder's constructor.
    """
    # ONNX Runtime takes a second to load; wrong usage is told before that.
    import onnxruntime

    from sender.encoder import OnnxEncoder

    providers = choose_providers(device, onnxruntime.get_available_providers())
    if len(providers) > 1 and hasattr(onnxruntime, "preload_dlls"):
        # Finds the CUDA libraries that pip installed, which lie outside the loader's path.
        onnxruntime.preload_dlls()
    encoder = OnnxEncoder(bundle, 0, providers, tile)
    if device in _WANTED and _WANTED[device] not in encoder.providers:
        raise PinholeError(
            f"--device {device}: ONNX Runtime cannot start it on this machine; check the driver and the CUDA and cuDNN "
            "libraries, or pass --device cpu"
        )
    return encoder


def _engine_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "pinhole" / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
