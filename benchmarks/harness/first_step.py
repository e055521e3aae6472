"""A process that imports what it needs and takes one training step: `python -m benchmarks.harness.first_step NAME CASE`

It serves the suite `startup`, which times whole processes. NAME is one of `contenders.registry.STEP`; CASE is a device,
a precision and a batch size.
"""

import sys

import vae_fast as vf
from benchmarks.contenders.registry import STEP
from benchmarks.harness.metadata import Case
from benchmarks.harness.training_runs import Work


def main(name: str, device: str, precision: str, batch: str) -> None:
    pixels = vf.load_images("digits").pixels.flatten(1).to(device)
    work = Work("startup", "run", Case(device, precision, int(batch)), pixels, steps=1, units=1)
    loss = work.build(STEP[name])(next(work.orders()))
    print(loss)


if __name__ == "__main__":
    main(*sys.argv[1:])
