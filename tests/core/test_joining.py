"""How processes become ranks."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from csd_nerf.core.joining import begin


@pytest.mark.parametrize(
    ("platform", "named", "expected"),
    [("linux", None, "lo"), ("darwin", None, "lo0"), ("linux", "eth1", "eth1")],
)
def test_processes_of_one_machine_listen_to_it_alone(
    monkeypatch, tmp_path, platform, named, expected
):
    heard = []
    monkeypatch.setattr(sys, "platform", platform)
    # So that what the block leaves is undone.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", named or "")
    if named is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")

    def init(*_, **__):
        heard.append(os.environ["GLOO_SOCKET_IFNAME"])

    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with begin(tmp_path / "ranks", 0, 2):
        pass
    assert heard == [expected]
