"""Opens obstore's clients by each provider's usual settings in this process's environment; makes no request, knows no location."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from store_schema.errors import BackendError, UsageError
from store_schema.redact import redact

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES_INSIDE, RETRY_TIMEOUT_S = 4, 60
REQUEST_TIMEOUT_S, CONNECT_TIMEOUT_S = 120, 10
EMULATOR_TOKEN = "emulator"  # noqa: S105 - opens nothing: an emulator asks for a token and takes any
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s?#]*)?", re.ASCII)


def connect_s3(bucket: str, prefix: str) -> ObjectStore:
    """A client for S3, by AWS's usual environment variables or profile."""
    from obstore.store import S3Store  # noqa: PLC0415

    config, provider = _s3_settings()
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        credential_provider=provider,
        client_options=_client_options(config.get("endpoint", "")),
        retry_config=_retries(),
    )


def connect_google(url: str) -> ObjectStore:
    """A client for Google Cloud Storage, by Google's usual environment variables, gcloud's login or the machine's account."""
    from obstore.store import GCSStore  # noqa: PLC0415

    endpoint, config = os.environ.get("GOOGLE_BASE_URL", ""), {}
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and not endpoint:
        endpoint = (emulator if "://" in emulator else f"http://{emulator}").rstrip("/")
        # No credential of this process is for an emulator.
        config = {"base_url": endpoint, "bearer_token": EMULATOR_TOKEN}
    _check_endpoint(endpoint, "Google", "GOOGLE_BASE_URL, STORAGE_EMULATOR_HOST")
    options: Any = {"config": config, "client_options": _client_options(endpoint), "retry_config": _retries()}
    return GCSStore.from_url(url, **options)


def connect_azure(url: str) -> ObjectStore:
    """A client for Azure Blob Storage, by Azure's usual environment variables."""
    from obstore.store import AzureStore  # noqa: PLC0415

    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT", "")
    _check_endpoint(endpoint, "Azure", "AZURE_STORAGE_ENDPOINT")
    return AzureStore.from_url(url, client_options=_client_options(endpoint), retry_config=_retries())


def connect_http(url: str) -> ObjectStore:
    """A client for objects below a web address."""
    from obstore.store import HTTPStore  # noqa: PLC0415

    return HTTPStore.from_url(url, client_options=_client_options(url), retry_config=_retries())


def _s3_settings() -> tuple[Any, Any]:
    """Settings of the client and, where a profile rather than the environment holds the keys, a provider of credentials."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if os.environ.get("AWS_ACCESS_KEY_ID") and not os.environ.get("AWS_PROFILE"):
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return _at_endpoint(endpoint) | {"region": region}, None
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - a second that most calls need not spend

    try:
        return _profile_settings(endpoint)
    except BotoCoreError as error:
        raise BackendError(
            f"no AWS credentials could be had: {redact(str(error))[:300]} (check AWS_PROFILE and the files in ~/.aws, or log in "
            "again)."
        ) from None


def _profile_settings(endpoint: str | None) -> tuple[Any, Any]:
    """The same from AWS's files, SSO, container or instance; without any credentials requests are not signed."""
    from botocore.session import Session  # noqa: PLC0415

    session = Session()
    profile = session.get_scoped_config() if session.profile in {None, *session.available_profiles} else {}
    config = _at_endpoint(endpoint or profile.get("endpoint_url"))
    config["region"] = os.environ.get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    if session.get_credentials() is None:
        return config | {"skip_signature": True}, None
    return config, _Credentials(session)


def _at_endpoint(endpoint: str | None) -> dict[str, Any]:
    """Settings of a server other than AWS's own."""
    if not endpoint:
        return {}
    _check_endpoint(endpoint, "S3", "AWS_ENDPOINT_URL")
    return {"endpoint": endpoint, "virtual_hosted_style_request": False}


def _check_endpoint(endpoint: str, provider: str, variables: str) -> None:
    """Refuses what is no address: the client would panic at it."""
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise UsageError(
            f"the {provider} endpoint {redact(endpoint)!a} is no address: expected http://HOST:PORT or https://HOST ({variables})."
        )


class _Credentials:
    """Gives obstore the keys that botocore finds in profile, SSO, container or instance, fresh whenever it asks."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self) -> Any:
        found = self._session.get_credentials().get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }


def _client_options(address: str) -> Any:
    """Without encryption only where the address says so itself."""
    return {
        "allow_http": address.startswith("http://"),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
    }


def _retries() -> Any:
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
    return {
        "max_retries": RETRIES_INSIDE,
        "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
        "backoff": backoff,
    }
