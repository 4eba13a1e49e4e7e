"""Reads weights: from safetensors, PyTorch's own format where torch is present, and the Hugging Face Hub."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from dlx.pretrained.rules import PretrainedError

HALF = ("bfloat16", "float16")


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the named arrays of a file, or of a repository of the Hugging Face Hub.

    `path` is a safetensors file, a file of PyTorch (.pth, .pt, .bin; needs torch, which reads tensors alone
    and never runs what else a pickle may hold), or OWNER/NAME on the Hub, such as "timm/resnet50.a1_in1k"
    (needs huggingface_hub, and a network or an earlier download). Half precision comes as float32, exactly.
    """
    file = Path(path)
    if not file.exists() and re.fullmatch(r"[\w-]+/[\w.-]+", str(path)) and file.suffix not in READERS:
        file = downloaded(str(path))
    if not file.exists():
        raise FileNotFoundError(f"no weights at {file}")
    if file.suffix not in READERS:
        raise PretrainedError(f"{file} is none of {', '.join(READERS)}")
    weights = READERS[file.suffix](file)
    return {k: v.astype(np.float32) if v.dtype.name in HALF else v for k, v in weights.items()}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file, whose bytes are numbers and nothing else."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise PretrainedError(f"to read {file}, install safetensors") from error

    try:
        return safetensors.numpy.load_file(file)
    except Exception as error:  # beside its own error, of types that numpy has not, and numpy's
        raise PretrainedError(f"{file} is not a whole safetensors file: {error!r}") from error


def read_torch(file: Path) -> dict[str, np.ndarray]:
    """Reads a state dict that torch saved, by itself or as "state_dict" or "model" of a checkpoint."""
    try:
        import torch
    except ImportError as error:
        raise PretrainedError(
            f"{file} is in PyTorch's format: install torch to read it, or convert it to safetensors"
        ) from error

    refuse_packed(file)
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PretrainedError(
            f"{file} holds more than tensors, and is not read for safety: {error}"
        ) from error
    except Exception as error:  # of a damaged pickle, which may ask for anything
        raise PretrainedError(f"{file} is not a whole file of PyTorch: {error!r}") from error
    for key in ("state_dict", "model"):
        saved = saved.get(key, saved) if isinstance(saved, dict) else saved
    if not isinstance(saved, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in saved.items()
    ):
        raise PretrainedError(f"{file} holds no state dict, a mapping of names to tensors")
    half = (torch.bfloat16, torch.float16)
    try:
        for name, value in saved.items():
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise PretrainedError(f"{file} says that {name!r} has more numbers than it stores")
        return {k: (v.float() if v.dtype in half else v).detach().numpy() for k, v in saved.items()}
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantized, complex and the like
        raise PretrainedError(f"{file} holds tensors that are no plain arrays: {error}") from error


def refuse_packed(file: Path) -> None:
    """Refuses a zip file of compressed members, which PyTorch's never are: they grow without bounds."""
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":  # as PyTorch tells
            return
    try:
        with zipfile.ZipFile(file) as packed:
            whole = all(info.compress_type == zipfile.ZIP_STORED for info in packed.infolist())
    except Exception as error:  # of a damaged directory
        raise PretrainedError(f"{file} is not a whole file of PyTorch: {error!r}") from error
    if not whole:
        raise PretrainedError(f"{file} is compressed, which no file that PyTorch saves is; it is not read")


READERS = {".safetensors": read_safetensors, ".pth": read_torch, ".pt": read_torch, ".bin": read_torch}


def downloaded(name: str) -> Path:
    """Returns the local copy of model.safetensors in a repository of the Hub, downloaded if need be."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise PretrainedError(
            f"{name} is no file here; to look for it on the Hugging Face Hub, install huggingface_hub"
        ) from error

    try:
        return Path(huggingface_hub.hf_hub_download(name, "model.safetensors"))
    except Exception as error:  # what the network raises is not of one family
        raise PretrainedError(
            f"{name} is no file here, and model.safetensors of https://huggingface.co/{name} cannot be had "
            f"({type(error).__name__}: {error}). Without a network, fetch it elsewhere and give its path."
        ) from error
