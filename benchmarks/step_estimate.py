"""An estimate, not a measurement, of a captured step's time on an H200. `python -m benchmarks.step_estimate`

Each node takes the longest of three times: that of a small node that waits for the one before it, its bytes at the
memory's speed, and its arithmetic at the tensor cores' speed. For this engine's step every node is listed here; for the
plain compiled model, what it does besides the same products, with as many nodes as graph_nodes.md has at batch 128. A
cache that holds what the next node reads would make a step faster; products too small for the machine, slower.
"""

from benchmarks.graph_nodes import counts_of
from benchmarks.reporting.tables import markdown

NODE_US = (1.3, 2.0)  # a small dependent node of a graph on an H100-class GPU, as others report
BYTES_PER_US = 4.8e6  # an H200's memory, by its data sheet
FLOP_PER_US = 790e6  # dense bfloat16, as large products reach on an H200
PIXELS, HIDDEN, LATENT = 784, 400, 20
LAYERS = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]
PARAMETERS = sum(n * m + m for n, m in LAYERS)
BATCHES = (128, 1024, 4096)
VERSION = "2.14.1"

Node = tuple[str, float, float]  # what, bytes, floating-point operations


def products(b: int) -> list[Node]:
    """Return the eleven in bfloat16: forward, the weights' gradients, and the inputs' of all layers but the first."""
    one = [(f"{n} x {m}", 2.0 * (b * n + n * m + b * m), 2.0 * b * n * m) for n, m in LAYERS]
    return one * 2 + one[1:]


def ours(b: int) -> list[Node]:
    values = b * 2 * LATENT
    return [
        ("rates", 100, 0),
        ("gather", b * PIXELS * (1 + 1 + 2), 0),
        *products(b),
        ("sample", 2 * (values + values / 2) + 4 * b, 0),
        ("weights of the two terms", 100, 0),
        ("nll with gradient", b * PIXELS * (2 + 1 + 2), 0),
        ("its bias", b * PIXELS * 2, 0),
        ("ReLU's way back and bias", 2 * 3 * b * HIDDEN, 0),
        ("sample's gradient", 2 * (2 * values + values / 2), 0),
        ("its bias", 2 * values, 0),
        ("ReLU's way back and bias", 2 * 3 * b * HIDDEN, 0),
        ("sums", 2 * PARAMETERS, 0),
        ("update", PARAMETERS * (3 * 8 + 2 + 2), 0),
    ]


def rival(b: int, nodes: int) -> list[Node]:
    """Return the same products, the casts of weights and gradients, and Adam; the rest is small, or as ours."""
    casts = [
        ("weights cast", 6 * PARAMETERS, 0.0),
        ("gradients cast", 6 * PARAMETERS, 0.0),
        ("Adam", 28 * PARAMETERS, 0.0),
    ]
    images = [("images to float32", b * PIXELS * 5, 0.0), ("and to bfloat16", b * PIXELS * 6, 0.0)]
    loss = [
        ("loss", b * PIXELS * 6, 0.0),
        ("its gradient", b * PIXELS * 8, 0.0),
        *[("ReLU", 6.0 * b * HIDDEN, 0.0)] * 4,
    ]
    known = [*products(b), *casts, *images, *loss]
    return known + [("small", 100.0, 0.0)] * (nodes - len(known))


def microseconds(nodes: list[Node], floor: float) -> float:
    return sum(max(floor, size / BYTES_PER_US, work / FLOP_PER_US) for _, size, work in nodes)


def main() -> None:
    counted = counts_of(VERSION)
    rows = []
    for b in BATCHES:
        mine = ours(b)
        known = counted["bf16" if b == 128 else f"bf16, batch {b}"]
        mine += [("sums in two", 100.0, 0.0)] * (known - len(mine))
        steps = {"ours": mine, "plain model, gather, clip": rival(b, counted["plain model, bf16, gather, clip"])}
        for name, nodes in steps.items():
            low, high = (microseconds(nodes, floor) for floor in NODE_US)
            moved, work = sum(n[1] for n in nodes), sum(n[2] for n in nodes)
            cells = [str(len(nodes)), f"{moved / 1e6:.1f}", f"{work / 1e9:.2f}", f"{moved / BYTES_PER_US:.1f}"]
            rows.append([str(b), name, *cells, f"{work / FLOP_PER_US:.1f}", f"{low:.0f} to {high:.0f}"])
    head = ["batch", "step", "nodes", "MB", "GFLOP", "us of memory", "us of arithmetic", "estimate, us"]
    print(*markdown(head, rows, 2), sep="\n")


if __name__ == "__main__":
    main()
