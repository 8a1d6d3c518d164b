"""Whether tokens and TLS are set so that the processes of a stack can call each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from command_line.failures import CommandError
from command_line.up.processes import ADMISSION, BRIDGE_TOKEN, HTTP_BRIDGE, LANE_TOKEN, OPERATOR_TOKEN, TOKENS


def check_credentials(processes: Sequence[str], environment: Mapping[str, str]) -> None:
    """Raises CommandError when tokens or TLS are set so that the processes could not call each other."""
    if any(name in environment for name in TOKENS):
        needed = {OPERATOR_TOKEN: "`warmlane up` asks admission with it whether the stack is ready"}
        if HTTP_BRIDGE in processes:
            needed[BRIDGE_TOKEN] = "the bridge needs it to call admission"
        if set(processes) - {ADMISSION, HTTP_BRIDGE}:
            needed[LANE_TOKEN] = "lanes need it to attach"
        for name, why in needed.items():
            if name not in environment:
                msg = f"other tokens are set, so {name} must be set too: {why}. Set all that are needed, or none."
                raise CommandError(msg)
    serves, trusts = "WARMLANE_TLS_CERT_FILE" in environment, "WARMLANE_TLS_CA_FILE" in environment
    if ADMISSION in processes and serves != trusts:
        missing = "WARMLANE_TLS_CA_FILE must be set too" if serves else "WARMLANE_TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE must be set too"
        msg = f"admission and those who call it must both speak TLS: {missing}."
        raise CommandError(msg)
