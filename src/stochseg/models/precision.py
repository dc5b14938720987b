"""Where the networks compute, and in which number format."""

import torch

from stochseg.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that autocast uses; float32 means no autocast.

    "auto" takes bfloat16 where convolutions gain by it: CPUs with AMX or AVX512-BF16 units, GPUs that support it.
    """
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def precision_name(precision: str, device: torch.device) -> str:
    """What `resolve_precision` takes, as text: float32 or bfloat16."""
    return str(resolve_precision(precision, device)).removeprefix("torch.")


def resolve_device(name: str) -> torch.device:
    """The device of this name; "auto" is a CUDA device where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise InputError(f"--device {name}: must be auto, cpu, cuda, mps or xpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return device


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
