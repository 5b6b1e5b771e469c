"""A first look at the curvature of a torchvision network: `python examples/first_look.py`.

A ResNet-18 learns handwritten digits, enlarged to 64 × 64 pixels, for a few epochs and is analysed on a
part of its training data; the result is one page, first_look.html. Nothing is downloaded. What the
analysis costs is announced before it begins: some ten minutes on two CPU cores for 11 million
parameters, two for the 350,000 of `--network shufflenet_v2_x0_5`.
Needs what `pip install 'hessian-directions[figures,models]'` brings.
"""

import argparse
from pathlib import Path

import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import hessian_directions as hd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", help="a classifier of torchvision")
    parser.add_argument("--epochs", type=int, default=3, help="of training")
    parser.add_argument("--samples", type=int, default=200, help="that the analysis is about")
    parser.add_argument("--pixels", type=int, default=64, help="width of the enlarged digits")
    parser.add_argument("--points", type=int, default=15, help="of a slice along each axis, odd")
    parser.add_argument("--parts", nargs="*", default=hd.PARTS, help="of the analysis")
    parser.add_argument("--output", type=Path, default=Path("first_look.html"))
    options = parser.parse_args()

    torch.manual_seed(0)
    train, test = digits(options.pixels)
    model = torchvision.models.get_model(options.network, weights=None, num_classes=10)
    fit(model, train, options.epochs)

    loss = nn.functional.cross_entropy
    loader = DataLoader(Subset(train, range(options.samples)), batch_size=64)
    test_loader = DataLoader(Subset(test, range(options.samples)), batch_size=64)
    report = hd.analyze(
        model,
        loss,
        loader,
        test=test_loader,
        parts=options.parts,
        n_points=options.points,
        label=f"{options.network} on digits",
    )
    print(report)
    report.save(options.output)
    print(f"{options.output} is written.")


def digits(pixels: int) -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's handwritten digits as images of three channels, for training and test."""
    images, targets = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    inputs = nn.functional.interpolate(inputs, size=pixels, mode="bilinear").expand(-1, 3, -1, -1)
    classes = torch.tensor(targets)
    return TensorDataset(inputs[:1200], classes[:1200]), TensorDataset(
        inputs[1200:], classes[1200:]
    )


def fit(model: nn.Module, data: TensorDataset, epochs: int) -> None:
    """Plain stochastic gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for inputs, classes in DataLoader(data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), classes).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
