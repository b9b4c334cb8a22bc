"""The caller's AWS session, and AWS's refusals as sentences that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from serving.errors import ConfigError

if TYPE_CHECKING:
    import boto3
    from botocore.exceptions import ClientError

LOG_IN: Final = "log in (`aws sso login` or `aws configure`) or set AWS_PROFILE"

EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
UNKNOWN: Final = {"InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "AuthFailure"}
DENIED: Final = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
"""Codes by which AWS's services say one thing; each service has its own word for it."""


def open_session(region: str = "") -> "boto3.Session":
    """The caller's session, in `region` or the one that is configured.

    Raises:
        ConfigError: No region, no credentials, or a profile that does not exist.
    """
    import boto3

    with explained("read your AWS settings"):
        session = boto3.Session(region_name=region or None)
        credentials = session.get_credentials()
    if credentials is None:
        raise ConfigError(f"found no AWS credentials: {LOG_IN}")
    if not session.region_name:
        raise ConfigError("found no AWS region: set AWS_DEFAULT_REGION, such as eu-central-1, or `aws configure` one")
    return session


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn what AWS refuses within the block into one sentence.

    Args:
        action: What is tried, to follow "cannot": "create the repository kennel-serving".

    Raises:
        ConfigError: Credentials missing, expired or unknown; access denied; AWS not reached; or any other refusal.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise ConfigError(f"cannot {action}: {_explain(error)}") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise ConfigError(f"cannot {action}, found no complete AWS credentials: {LOG_IN}") from error
    except (exceptions.SSOError, exceptions.TokenRetrievalError, exceptions.CredentialRetrievalError) as error:
        raise ConfigError(f"cannot {action}, your AWS login has expired or cannot be read: {LOG_IN}") from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise ConfigError(f"cannot {action}, AWS does not answer: check network and region ({error})") from error
    except exceptions.BotoCoreError as error:
        raise ConfigError(f"cannot {action}: {error}") from error


def _explain(error: "ClientError") -> str:
    code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    if code in EXPIRED:
        return f"your AWS credentials have expired; {LOG_IN}"
    if code in UNKNOWN:
        return f"AWS does not know your credentials ({code}); {LOG_IN}"
    if code in DENIED:
        return f"AWS denies it, ask for the permission {error.operation_name} ({message})"
    return f"AWS refuses, {code}: {message}"
