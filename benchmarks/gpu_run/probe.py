"""What a GPU run must know about its machine before it starts, as JSON from a separate process, which may fail."""

import json

import torch

from vae_fast.data.builtin import find_known
from vae_fast.kernels import dispatch
from vae_fast.runtime.plan import auto_precision


def probe() -> dict[str, str]:
    """Return the device, its precision and operators, and which images are available."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "device": device.type,
        "precision": auto_precision(device)[0],
        "operators": dispatch.preferred(device),
        "name": torch.cuda.get_device_name() if device.type == "cuda" else "no CUDA device",
        "torch": torch.__version__,
        "images": "MNIST" if find_known("mnist") else "digits for want of MNIST, whose folder VAE_FAST_DATA may name",
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
