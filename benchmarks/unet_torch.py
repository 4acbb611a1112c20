"""U-Net in PyTorch, the same as `nets/unet.py`, to be timed; see `turns`.

    python -m benchmarks.unet_torch train|forward|image SIDE float32|bfloat16

`image` is the forward pass of one image, of a batch of 1.
Each at the fastest setting found: channels_last; training compiled, which
needs a C++ compiler; the forward pass traced and frozen; memory kept, see
`MALLOC` in `run.py`.
"""
import sys

import torch
from torch import nn

from benchmarks.turns import BATCH, STEPS, serve

WIDTH, LEVELS = 16, 4


def double_conv(inputs, filters):
    """Two 3 x 3 convolutions, each with batch norm and ReLU.

    From float32 [N, inputs, H, W] to [N, filters, H, W].
    """
    layers = []
    for channels in (inputs, filters):
        layers += [nn.Conv2d(channels, filters, 3, padding=1, bias=False),
                   nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """float32 [N, 3, H, W] to logits [N, 1, H, W]."""

    def __init__(self):
        super().__init__()
        sizes = [WIDTH * 2 ** level for level in range(LEVELS + 1)]
        self.downs = nn.ModuleList(
            double_conv(a, b) for a, b in zip([3] + sizes, sizes[:-1]))
        self.bottleneck = double_conv(sizes[-2], sizes[-1])
        self.upconvs = nn.ModuleList(
            nn.ConvTranspose2d(2 * size, size, 2, stride=2)
            for size in sizes[:-1])
        self.ups = nn.ModuleList(double_conv(2 * size, size)
                                 for size in sizes[:-1])
        self.classifier = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, x):
        skips = []
        for down in self.downs:
            skips.append(down(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for level in reversed(range(LEVELS)):
            x = torch.cat([skips[level], self.upconvs[level](x)], 1)
            x = self.ups[level](x)
        return self.classifier(x)


def segmentation_loss(logits, labels):
    """Weighted cross-entropy plus soft Dice, as `training/loss.py` has
    it; both are float32 [N, 1, H, W]."""
    def dilated(tensor):
        return nn.functional.max_pool2d(tensor, 5, 1)

    closed = -dilated(-dilated(nn.functional.pad(labels, (4, 4, 4, 4))))
    weights = 1 + 4 * (closed - labels)
    probability = torch.sigmoid(logits)
    dice = (2 * (probability * labels).sum() + 1) / (
        probability.sum() + labels.sum() + 1)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(
        logits, labels, weights, reduction='sum') / weights.sum()
    return cross_entropy + 1 - dice


def main(kind, side, precision):
    """Serves turns; the arguments are those of the command line."""
    side = int(side)
    torch.manual_seed(0)
    lower = torch.autocast('cpu', torch.bfloat16, precision == 'bfloat16')
    model = UNet().to(memory_format=torch.channels_last)
    images = torch.rand(1 if kind == 'image' else BATCH, 3, side, side).to(
        memory_format=torch.channels_last)
    labels = (images[:, :1] > 0.8).float()
    if kind != 'train':
        torch._C._jit_set_autocast_mode(False)  # the trace has the casts
        with torch.inference_mode(), lower:
            model = torch.jit.freeze(torch.jit.trace(model.eval(), images))

        def run():
            with torch.inference_mode(), lower:
                torch.sigmoid(model(images))
    else:
        model = torch.compile(model)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)

        def run():
            optimizer.zero_grad(set_to_none=True)
            with lower:
                loss = segmentation_loss(model(images), labels)
            loss.backward()
            optimizer.step()

    serve(run, *((1, 1) if kind == 'image' else (BATCH, STEPS)))


if __name__ == '__main__':
    main(*sys.argv[1:])
