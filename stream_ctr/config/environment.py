"""Configuration keys from environment variables: ``STREAM_CTR_OPTIMIZER__RHO`` is ``optimizer.rho``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Final

from stream_ctr.config.experiment import SECRET_VARIABLE
from stream_ctr.config.keys import Keys
from stream_ctr.config.log import PASSWORD_VARIABLE
from stream_ctr.config.serve import TOKENS_VARIABLE
from stream_ctr.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "STREAM_CTR_"
NOT_SETTINGS: Final = ("STREAM_CTR_TEST_", PASSWORD_VARIABLE, SECRET_VARIABLE, TOKENS_VARIABLE)
"""Prefixes of environment variables that are not settings: the test suite's own, and the secrets."""


def setting_variables(environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """The environment variables that name keys: the variable of each path."""
    return {
        tuple(variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")): variable
        for variable in sorted(environment)
        if variable.startswith(ENVIRONMENT_PREFIX) and not variable.startswith(NOT_SETTINGS)
    }


def with_environment(table: Mapping[str, Any], environment: Mapping[str, str], keys: Keys) -> dict[str, Any]:
    """The file's table with the environment's values in it; a list or a table is JSON there.

    Raises:
        ConfigError: a variable names no key, or a table without being one in JSON.
    """
    merged = copy.deepcopy(dict(table))
    for path, variable in setting_variables(environment).items():
        for length in range(1, len(path) + 1):
            if keys.node(path[:length]) is None:
                raise ConfigError(f"environment variable {variable}: {keys.unknown(path[:length], {})}")
        kind, value = (keys.node(path) or {}).get("type"), environment[variable]
        parsed = _json(value) if kind in ("array", "object") else value
        if kind == "object" and not isinstance(parsed, dict):
            raise ConfigError(f"environment variable {variable} names a table; name a key: {variable}__KEY")
        target = merged
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                break  # no table in the file, which is the error to report
        else:
            target[path[-1]] = parsed
    return merged


def _json(text: str) -> Any:
    """The parsed JSON; the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
