from __future__ import annotations

import pytest
import torch

from csd_nerf.core.copies import on_cpu, sent


@pytest.mark.parametrize(
    ("device", "pinned", "waits"),
    # Who reads what comes to the CPU must find it there.
    [("cuda:1", True, False), ("cpu", False, True), ("meta", False, False)],
)
def test_only_what_goes_to_a_gpu_is_pinned_and_only_what_comes_to_the_cpu_is_waited_for(
    monkeypatch, device, pinned, waits
):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pin") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *given, **named: calls.append((given, named)) or self
    )
    where = torch.device(device)
    sent(torch.arange(3), where)
    assert calls == [*(["pin"] if pinned else []), ((where,), {"non_blocking": not waits})]


def test_what_is_there_already_is_the_same_tensor():
    tensor = torch.arange(3)
    assert sent(tensor, torch.device("cpu")) is tensor


def test_a_copy_on_the_cpu_shares_nothing_and_holds_the_rest_as_it_is():
    parameter = torch.nn.Parameter(torch.ones(2))
    given = {"scene": {"weights": parameter}, "edits": [torch.ones(1), "name"], "steps": 3}
    found = on_cpu(given)
    with torch.no_grad():
        parameter += 1
    given["edits"][0] += 1
    assert not found["scene"]["weights"].requires_grad
    assert found["scene"]["weights"].tolist() == [1, 1]
    assert found["edits"][0].tolist() == [1]
    assert (found["edits"][1], found["steps"]) == ("name", 3)
