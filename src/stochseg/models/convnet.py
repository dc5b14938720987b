"""Five convolutions: the paper's calibration network on top of a black box, for Cityscapes."""

from collections import OrderedDict

from torch import Tensor, nn

from stochseg.models.convolutions import ReflectedConv
from stochseg.models.dropout import Dropout


class ConvNet(nn.Module):
    """Five 3x3 convolutions at full resolution, padded by reflection.

    channels: of the image and of the one-hot black box, which the caller concatenates; classes: k; width: channels
    between; dropout: after every convolution, the last one too, as in the official code.
    """

    def __init__(self, channels: int, classes: int, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    OrderedDict(
                        conv=ReflectedConv(inside, width),
                        dropout=Dropout(dropout),
                        norm=nn.BatchNorm2d(width),
                        activation=nn.LeakyReLU(0.2, inplace=True),
                    )
                )
                for inside in (channels, width, width, width)
            )
        )
        self.head = ReflectedConv(width, classes)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: [b c h w], at least 2 x 2 pixels. Returns logits [b k h w]."""
        logits: Tensor = self.dropout(self.head(self.blocks(x)))
        return logits


class NoCalibration(nn.Module):
    """In place of a calibration network: every class is equally likely everywhere. The paper's ablation, "G alone"."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """x: [b c h w]. Returns logits [b k h w], all zero."""
        return x.new_zeros(x.shape[0], self.classes, *x.shape[-2:])
