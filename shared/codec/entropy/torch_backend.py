"""The entropy program under torch: proof that it gives the same integers, and a way without ONNX Runtime."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shared.codec.entropy.backend import Maps
from shared.codec.entropy.integer import IntegerLayer, Integers, Rescale
from shared.codec.entropy.program import EntropyProgram, Layers


class TorchBackend:
    """Computes the entropy program with float32 convolutions that hold integers exactly.

    Args:
        program: the program.
        channels_last: keep feature maps channels-last in memory.
        device: where to run.
    """

    def __init__(self, program: EntropyProgram, channels_last: bool = False, device: str = "cpu") -> None:
        self.program = program
        self.device = torch.device(device)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self._prepared = {id(layer): self._prepare(layer) for layer in program.layers()}

    def hyper(self, z: Integers) -> Integers:
        """See `EntropyBackend.hyper`."""
        return self._integers(self._run(self.program.hyper, self._rescale(self._tensor(z), self.program.z_input)))

    def anchor(self, index: int, hyper: Maps, earlier: Integers) -> tuple[Integers, Integers, Integers]:
        """See `EntropyBackend.anchor`."""
        part = self.program.parts[index]
        context = self._tensor(hyper)
        channel = context[:, :0]
        if part.channel:
            channel = self._run(part.channel, self._rescale(self._tensor(earlier), self.program.y_input))
        scales, means = self._run(part.anchor, torch.cat((channel, context), 1)).chunk(2, 1)
        return self._integers(scales), self._integers(means), self._integers(channel)

    def nonanchor(self, index: int, hyper: Maps, channel: Maps, anchors: Integers) -> tuple[Integers, Integers]:
        """See `EntropyBackend.nonanchor`."""
        part = self.program.parts[index]
        local = self._run(part.local, self._rescale(self._tensor(anchors), self.program.y_input))
        inputs = torch.cat((local, self._tensor(channel), self._tensor(hyper)), 1)
        scales, means = self._run(part.nonanchor, inputs).chunk(2, 1)
        return self._integers(scales), self._integers(means)

    def _tensor(self, values: Maps) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device).contiguous(memory_format=self.format)

    @staticmethod
    def _integers(values: Tensor) -> Integers:
        return np.ascontiguousarray(values.cpu().numpy()).astype(np.int32)

    def _prepare(self, layer: IntegerLayer) -> tuple[Tensor, Tensor, Tensor | None]:
        weight = torch.from_numpy(layer.weight.astype(np.float32)).to(self.device).contiguous(memory_format=self.format)
        bias = torch.from_numpy(layer.bias.astype(np.float32)).to(self.device)
        table = None if layer.table is None else torch.from_numpy(layer.table.astype(np.float32)).to(self.device)
        return weight, bias, table

    def _rescale(self, values: Tensor, rescale: Rescale) -> Tensor:
        multiplier = torch.from_numpy(rescale.multiplier.astype(np.float64)).to(self.device)[:, None, None]
        unit = torch.from_numpy(2.0 ** -rescale.shift.astype(np.float64)).to(self.device)[:, None, None]
        scaled = torch.floor((values.double() * multiplier) * unit + 0.5)
        return scaled.clamp(rescale.low, rescale.high).float()

    @torch.no_grad()
    def _run(self, layers: Layers, values: Tensor) -> Tensor:
        for layer in layers:
            weight, bias, table = self._prepared[id(layer)]
            # Autocast or TF32 would round the 24-bit sums.
            with torch.autocast(self.device.type, enabled=False):
                if layer.transposed:
                    values = F.conv_transpose2d(
                        values, weight, bias, layer.stride, layer.padding, output_padding=layer.stride - 1
                    )
                else:
                    values = F.conv2d(values, weight, bias, padding=layer.padding)
            values = self._rescale(values, layer.rescale)
            if table is not None:
                values = table[values.long() + 128]
        return values
