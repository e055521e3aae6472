"""The optimizer against torch.optim's."""

import pytest
import torch
from torch import nn

from vae_fast.adam import Adam


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_updates_as_torchs_fused_optimizer_does(weight_decay: float) -> None:
    ours, theirs = network(), network()
    optimizer = Adam(ours.named_parameters(), 1e-2, weight_decay)
    reference = torch.optim.AdamW(theirs.parameters(), 1e-2, weight_decay=weight_decay, fused=True)
    for step in range(5):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.step()
        reference.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_step_that_found_inf_changes_nothing() -> None:
    model = network()
    optimizer = Adam(model.named_parameters(), 1e-2)
    for found_inf in (0.0, 1.0):
        before = {k: v.clone() for k, v in {**optimizer.tensors(), **model.state_dict()}.items()}
        for p in model.parameters():
            p.grad = torch.full_like(p, float("nan") if found_inf else 1.0)
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        after = {**optimizer.tensors(), **model.state_dict()}
        assert all(torch.equal(before[k], after[k]) == bool(found_inf) for k in before)
    assert optimizer.tensors()["step"] == 1


def test_a_state_of_another_network_is_refused() -> None:
    optimizer = Adam(network().named_parameters(), 1e-2)
    with pytest.raises(KeyError):
        optimizer.load_tensors({"step": torch.zeros(())})
