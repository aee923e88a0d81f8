"""How far the receiver's networks of convolutions see: the rim that ``receiver.tiles`` gives each tile.

Counted backwards from the output. A 3x3 convolution adds one position at its own size, a block as many as it has
convolutions in a row; a pixel shuffle halves what was counted, rounded up, and a transposed convolution of kernel k and
stride 2 adds ``k // 2`` before it is halved. The tests measure the same numbers on the networks.
"""

from shared.codec.nets.autoencoder import AutoencoderConfig
from shared.codec.nets.lfgcm import LfgcmConfig
from shared.codec.nets.pocket import PocketConfig
from shared.errors import PinholeError


def pocket_decoder_halo(config: AutoencoderConfig) -> int:
    """Return how many latent positions (H/8) a pixel of the pocket decoder sees to each side; 12 as shipped."""
    eighth, quarter, half = config.decoder_depths
    return _halved(_halved(half + 1) + quarter) + eighth + 1


def pocket_synthesis_halo(config: PocketConfig) -> int:
    """Return how many blocks of 64 pixels the pocket synthesis sees to each side, in y and in z; 3 as shipped."""
    sixteenth, eighth = config.synthesis_depths
    # The reference of z is made by pointwise convolutions and two pixel shuffles: it sees its own block.
    return _halved(_halved(_halved(eighth + 1) + sixteenth))


def lfgcm_halo(config: LfgcmConfig) -> int:
    """Return how many blocks of 64 pixels LFGCM's reference decoder and synthesis see to each side; 6 for the paper.

    Raises:
        PinholeError: if the config's fusion looks at the whole picture.
    """
    if config.fusion == "cross-attention":
        raise PinholeError("cross-attention looks at the whole picture and cannot run in tiles; decode without tiles")
    reach = config.sft_kernel // 2
    # A fusion convolves its reference twice, and features only where it concatenates them.
    reference, features = 2 * reach, reach if config.fusion == "concatenation" else 0
    bottlenecks = 3

    projected = 1
    fine8 = projected + reference
    x16 = _halved(projected + features + bottlenecks + 1)
    # reference16_fine serves the fusion at H/16 and, through a transposed 3x3 convolution, that at H/8.
    fine16 = max(x16 + reference, _halved(fine8 + 1)) + 1
    x16 += features + bottlenecks + 1
    coarse16 = fine16
    for _ in ("guided2", "guided1"):
        for _ in ("second fusion", "first fusion"):
            coarse16 = max(coarse16, x16 + 1 + reference)
            x16 += 1 + features
    joined = max(coarse16 + 3, x16)
    # The reference decoder, backwards: transposed 3x3, transposed 5x5 twice with stride 2.
    of_z = _halved(_halved(joined + 1 + 2) + 2)
    return max(of_z, _halved(_halved(joined)))


def _halved(positions: int) -> int:
    return -(-positions // 2)
