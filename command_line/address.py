"""Where the commands find admission."""

from __future__ import annotations

from pathlib import Path

from command_line.up.folder import read_ports

DEFAULT_DATA_DIR = Path("warmlane-data")
"""Data folder of `warmlane up` when none is named, in the current folder."""

_DEFAULT_ADDRESS = "127.0.0.1:50051"


def find_admission(named: str | None, data_dir: Path = DEFAULT_DATA_DIR) -> str:
    """`host:port` as named (option or environment); else of the stack that runs on the data folder; else the default."""
    if named:
        return named
    port = read_ports(data_dir).get("admission")
    return f"127.0.0.1:{port}" if port is not None else _DEFAULT_ADDRESS
