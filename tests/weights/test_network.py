from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants as hub

from vactk.weights.network import fast_failure, unreachable


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,unknown.invalid")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)


def test_a_server_that_answers_is_left_to_its_downloader(server):
    before = socket.getdefaulttimeout()
    with fast_failure(server) as reason:
        assert reason == ""
        assert not hub.HF_HUB_OFFLINE
        assert socket.getdefaulttimeout() == before


def test_one_that_cannot_be_reached_fails_at_once_and_changes_nothing_for_later(server):
    port = server.rpartition(":")[2]
    start = time.monotonic()
    with fast_failure(f"http://unknown.invalid:{port}") as reason:
        assert reason.startswith("unknown.invalid cannot be reached") or "does not answer" in reason
        assert hub.HF_HUB_OFFLINE
    assert time.monotonic() - start < 5
    assert not hub.HF_HUB_OFFLINE
    assert socket.getdefaulttimeout() is None


def test_a_port_without_a_server_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert unreachable(f"http://127.0.0.1:{port}", 2.0).startswith("127.0.0.1 cannot be reached")


def test_offline_is_respected_without_a_look_at_the_network(monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "create_connection", None)  # calling it would fail
    with fast_failure("http://127.0.0.1:1") as reason:
        assert reason == "HF_HUB_OFFLINE is set"
