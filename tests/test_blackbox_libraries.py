"""Segmenters of other libraries as black boxes, as docs/blackbox.md puts them: run where the library is installed."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from stochseg.models.blackbox import IMAGENET, BlackBox


def library(name: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # a torchvision beside another build of torch fails in ways of its own
        pytest.skip(f"{name} cannot be imported here ({type(error).__name__})")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(0)) * 2 - 1


def check(seen: Tensor, classes: int) -> None:
    assert seen.shape == (2, classes, 70, 90)
    assert torch.equal(seen.sum(1), torch.ones(2, 70, 90))
    assert set(seen.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.slow
def test_torchvision(images: Tensor) -> None:
    models = library("torchvision.models.segmentation")
    net = models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
    check(BlackBox(net, **IMAGENET)(images, 25), 25)


@pytest.mark.slow
def test_hugging_face(images: Tensor) -> None:
    transformers = library("transformers")
    config = transformers.SegformerConfig(
        num_labels=19,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
    )
    check(BlackBox(transformers.SegformerForSemanticSegmentation(config), **IMAGENET)(images, 25), 25)


@pytest.mark.slow
def test_segmentation_models(images: Tensor) -> None:
    """The network of the paper's black box."""
    smp = library("segmentation_models_pytorch")
    net = smp.DeepLabV3Plus("tu-xception65", encoder_weights=None, classes=19)
    check(BlackBox(net, **IMAGENET, multiple=16)(images, 25), 25)
