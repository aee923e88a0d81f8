"""What the paper trains: compression module and control, end to end, beside a frozen Stable Diffusion."""

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from shared.codec.nets.control import ControlConfig, ControlModule
from shared.codec.nets.ddpm import NoiseModel
from shared.codec.nets.lfgcm import Lfgcm
from shared.errors import PinholeError
from training.paper.settings import ModelSettings


class PaperCodec(nn.Module):
    """Compression module, control and the empty prompt's embedding: all that a checkpoint keeps.

    Args:
        settings: widths and ablations.
        unet: the frozen base; the control starts from its weights (paper, section III-C).
        context: embedding of the empty prompt, ``1 x tokens x width``; kept as a buffer.

    Raises:
        PinholeError: if the content variable has not the channels of the base's latent.
    """

    context: Tensor

    def __init__(self, settings: ModelSettings, unet: UNet2DConditionModel, context: Tensor) -> None:
        super().__init__()
        channels = unet.config["in_channels"]
        if settings.lfgcm.content_channels != channels:
            raise PinholeError(
                f"model.lfgcm.content_channels is {settings.lfgcm.content_channels}, but the latent of "
                f"{settings.stable_diffusion} has {channels}; set it to that"
            )
        self.lfgcm = Lfgcm(settings.lfgcm)
        self.control = ControlModule(unet, ControlConfig.for_unet(unet, settings.control_ratio, settings.head_channels))
        self.control.initialise_from(unet)
        self.control.recompute = settings.recompute
        self.register_buffer("context", context.clone())

    def noise_model(self, unet: UNet2DConditionModel) -> NoiseModel:
        """Return the controlled noise estimator ``(x, t, content)`` for a base."""

        def estimate(x: Tensor, t: Tensor, content: Tensor) -> Tensor:
            noise: Tensor = self.control(unet, x, t, self.context, content)
            # The losses are in float32 even where autocast gives bfloat16.
            return noise.float()

        return estimate
