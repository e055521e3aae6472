"""The table of nodes: complete, and within its limits."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.graph_nodes import EVALUATIONS, RIVALS, SETTINGS, counts_of, kinds
from benchmarks.nullgpu.log import Call

VERSIONS = ("2.11.0", "2.14.1")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_names_every_setting_and_keeps_its_limit(version: str) -> None:
    counts = counts_of(version)
    assert counts.keys() == {*SETTINGS, *EVALUATIONS, *RIVALS}
    for name, setting in SETTINGS.items():
        assert setting.most is None or counts[name] <= setting.most, name


def test_nodes_are_counted_by_origin() -> None:
    made = {
        "products": ("product", "cublasLtMatmul"),
        "Inductor's": ("kernel", "triton_poi_fused_0 1,1,1"),
        "PyTorch's": ("kernel", "_ZN2at6native29vectorized 1,1,1"),
        "ours": ("kernel", "_finish_step_sum_kernel 1,1,1"),
        "copies": ("copy", "cudaMemcpyAsync 4"),
    }
    nodes = [Call(True, False, kind, "0x1", 1, what) for kind, what in made.values()]
    assert kinds(nodes) == dict.fromkeys(made, 1)
