from __future__ import annotations

import pytest
import torch

from csd_nerf.core.copies import sent


@pytest.mark.parametrize(("device", "pinned"), [("cuda:1", True), ("cpu", False), ("meta", False)])
def test_only_what_goes_to_a_gpu_is_pinned_and_nothing_is_waited_for(monkeypatch, device, pinned):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pin") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *given, **named: calls.append((given, named)) or self
    )
    where = torch.device(device)
    sent(torch.arange(3), where)
    assert calls == [*(["pin"] if pinned else []), ((where,), {"non_blocking": True})]


def test_what_is_there_already_is_the_same_tensor():
    tensor = torch.arange(3)
    assert sent(tensor, torch.device("cpu")) is tensor
