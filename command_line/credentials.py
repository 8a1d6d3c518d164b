"""What the commands show to admission: TLS files and the token of a role, from the environment."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, ValidationError

from command_line.failures import CommandError
from runtime.credentials import CallerCredentials, CredentialError
from runtime.roles import Role
from runtime.rpc_settings import CallerTlsSettings, Tokens
from runtime.settings import problems


class CommandSettings(CallerTlsSettings):
    """Settings of the commands, the same variables as those of the processes.

    Attributes:
        client_token: shown by the commands for tasks: submit, status, watch, cancel. Unset: the operator's.
        operator_token: shown by the commands for operators: lanes, queue, drain, fallback, events, doctor, and by `up`.
    """

    client_token: Tokens = Field(default=None, description="What the commands for tasks show to admission.")
    operator_token: Tokens = Field(default=None, description="What the commands for operators show to admission.")


def credentials_of(environment: Mapping[str, str], role: Role, address: str) -> CallerCredentials:
    """What a command of this role shows to admission at `host:port`.

    Where its token is missing, the other one: admission then says what is needed.

    Raises:
        CommandError: the settings are wrong.
    """
    given = {name: environment.get(f"WARMLANE_{name.upper()}", "") for name in CommandSettings.model_fields}
    try:
        settings = CommandSettings.model_validate(given)
        first, other = settings.operator_token, settings.client_token
        if role is Role.CLIENT:
            first, other = other, first
        credentials = settings.caller_credentials(first or other)
        credentials.check_for(address)
    except ValidationError as error:
        raise CommandError("; ".join(problems(error))) from error
    except CredentialError as error:
        raise CommandError(f"{error}.") from error
    return credentials
