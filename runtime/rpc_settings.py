"""The settings of gRPC that processes share: TLS and tokens, the credentials that they make, and channelz."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.credentials import CallerCredentials, CallerFiles, ServerCredentials, ServerFiles, split_tokens
from runtime.roles import Role
from runtime.tls import check_caller_files, check_server_files


def _blank_is_unset(value: object) -> object:
    return None if value == "" else value


def _are_tokens(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        split_tokens(value.get_secret_value())
    return value


PemFile = Annotated[Path | None, BeforeValidator(_blank_is_unset)]
"""Path of a PEM file; an empty value is none."""
Tokens = Annotated[SecretStr | None, BeforeValidator(_blank_is_unset), AfterValidator(_are_tokens)]
"""The token of a role, or two separated by a comma: servers take both, callers send the first."""


class ServerTlsSettings(BaseSettings):
    """How a gRPC server proves who it is, and who may connect. Base of the settings of processes that serve gRPC.

    Attributes:
        tls_cert_file: PEM file of the server's certificate and those between it and the CA. Unset: no TLS, and loopback only.
        tls_key_file: PEM file of that certificate's key, not encrypted.
        tls_client_ca_file: PEM file of CAs. Set: clients must show a certificate of one of them (mutual TLS).
    """

    model_config = SettingsConfigDict(env_prefix="WARMLANE_", frozen=True, extra="ignore")

    tls_cert_file: PemFile = Field(default=None, description="PEM certificate of this gRPC server; unset: no TLS, loopback only.")
    tls_key_file: PemFile = Field(default=None, description="PEM key of that certificate.")
    tls_client_ca_file: PemFile = Field(default=None, description="PEM CAs of client certificates; set: clients must show one.")

    @model_validator(mode="after")
    def _server_files_can_be_used(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            msg = "WARMLANE_TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE are set together or not at all"
            raise ValueError(msg)
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            msg = "WARMLANE_TLS_CLIENT_CA_FILE needs WARMLANE_TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE"
            raise ValueError(msg)
        if (files := self._server_files()) is not None:
            check_server_files(files)
        return self

    @model_validator(mode="after")
    def _each_role_has_its_own_token(self) -> Self:
        given = [token for tokens in self._tokens().values() for token in tokens]
        if len(set(given)) < len(given):
            msg = (
                "each role needs a token of its own: two of WARMLANE_BRIDGE_TOKEN, _CLIENT_TOKEN, _LANE_TOKEN, _OPERATOR_TOKEN are the same"
            )
            raise ValueError(msg)
        return self

    def server_credentials(self) -> ServerCredentials:
        """What the process's server asks of its callers: tokens of every role that the process knows."""
        return ServerCredentials(files=self._server_files(), tokens=self._tokens())

    def _tokens(self) -> Mapping[Role, tuple[str, ...]]:
        found: dict[Role, tuple[str, ...]] = {}
        for role in Role:
            value: SecretStr | None = getattr(self, f"{role}_token", None)
            if value is not None:
                found[role] = split_tokens(value.get_secret_value())
        return found

    def _server_files(self) -> ServerFiles | None:
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return ServerFiles(cert=self.tls_cert_file, key=self.tls_key_file, client_ca=self.tls_client_ca_file)


class ChannelzSettings(BaseSettings):
    """Whether channelz is served. Base of the settings of processes that serve gRPC.

    Attributes:
        channelz: off: it is neither served nor are calls and connections of the server counted for it. Recommended: on; gRPC counts by
            default, and where tokens are configured only operators may ask.
    """

    model_config = SettingsConfigDict(env_prefix="WARMLANE_", frozen=True, extra="ignore")

    channelz: bool = Field(
        default=True, description="Whether the gRPC server serves channelz: peers, connections and calls, for the operators' token."
    )


class CallerTlsSettings(BaseSettings):
    """How a caller of gRPC knows the server, and proves who it is. Base of the settings of processes that call admission.

    Attributes:
        tls_ca_file: PEM file of the CAs to trust. Set: admission is called over TLS. Unset: in the clear.
        tls_client_cert_file: PEM file of the caller's own certificate, for servers that ask for one.
        tls_client_key_file: PEM file of that certificate's key, not encrypted.
        tls_server_name: name that must stand in admission's certificate; unset: the host of its address.
    """

    model_config = SettingsConfigDict(env_prefix="WARMLANE_", frozen=True, extra="ignore")

    tls_ca_file: PemFile = Field(default=None, description="PEM CAs to trust; set: admission is called over TLS.")
    tls_client_cert_file: PemFile = Field(default=None, description="PEM certificate to show to servers that ask for one.")
    tls_client_key_file: PemFile = Field(default=None, description="PEM key of that certificate.")
    tls_server_name: str = Field(default="", description="Name in admission's certificate; unset: the host of its address.")

    @model_validator(mode="after")
    def _caller_files_can_be_used(self) -> Self:
        if (self.tls_client_cert_file is None) != (self.tls_client_key_file is None):
            msg = "WARMLANE_TLS_CLIENT_CERT_FILE and WARMLANE_TLS_CLIENT_KEY_FILE are set together or not at all"
            raise ValueError(msg)
        if self.tls_client_cert_file is not None and self.tls_ca_file is None:
            msg = "WARMLANE_TLS_CLIENT_CERT_FILE needs WARMLANE_TLS_CA_FILE: without it admission is not called over TLS"
            raise ValueError(msg)
        if (files := self._caller_files()) is not None:
            check_caller_files(files)
        return self

    def caller_credentials(self, tokens: SecretStr | None) -> CallerCredentials:
        """What the process shows when it calls: the first of these tokens."""
        token = split_tokens(tokens.get_secret_value())[0] if tokens is not None else ""
        return CallerCredentials(files=self._caller_files(), token=token)

    def _caller_files(self) -> CallerFiles | None:
        if self.tls_ca_file is None:
            return None
        return CallerFiles(
            ca=self.tls_ca_file, cert=self.tls_client_cert_file, key=self.tls_client_key_file, server_name=self.tls_server_name
        )
