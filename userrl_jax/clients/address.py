"""Where an endpoint is and the key to it, both checked before anything else.

In: settings. Out: a URL and a key, or a `types.SetupError` that shows neither
where it might hold a key.
"""

import ipaddress
import os
import re
import urllib.parse

from userrl_jax import types

OPENAI_URL = "https://api.openai.com/v1"

# No small letters: many a key (hf_aB1, gsk_x) would pass for a name with them.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


def checked_url(base_url: str, role: str) -> urllib.parse.SplitResult:
  """Returns the parts of an endpoint's URL.

  Args:
    base_url: as set.
    role: the section of the config that it is of.

  Raises:
    types.SetupError: when it is none, or holds more than an address.
  """
  try:
    url = urllib.parse.urlsplit(base_url)
    is_usable = url.scheme in ("http", "https") and bool(url.hostname)
    _ = url.port  # raises when it is no number
  except ValueError:
    is_usable = False
  # Neither is shown: either may hold a key.
  if "@" in base_url:
    raise types.SetupError(
      f"{role}.base_url must hold no name and password; put the key into the "
      f"variable that {role}.api_key_env names"
    )
  if "?" in base_url or "#" in base_url:
    raise types.SetupError(
      f"{role}.base_url must end with its path, without ? or # and what "
      f"follows; put a key into the variable that {role}.api_key_env names"
    )
  if not is_usable:
    raise types.SetupError(
      f"{role}.base_url must look like http://localhost:8000/v1, or be empty "
      f"for OpenAI's, got {base_url!r}"
    )
  return url


def key(api_key_env: str, host: str, where: str, role: str) -> str:
  """Returns the key; a placeholder for a local endpoint that needs none.

  Args:
    api_key_env: the variable of the environment that holds it.
    host: of the endpoint.
    where: the endpoint, as messages name it.
    role: the section of the config that it is of.

  Raises:
    types.SetupError: when there is none where one is needed, or none that a
      request can carry.
  """
  if api_key_env and not _VARIABLE.fullmatch(api_key_env):
    raise types.SetupError(  # not shown: it may be the key itself
      f"{role}.api_key_env must name a variable (A-Z, digits and _), got "
      "something else; put the key into a variable and name that one"
    )
  found = os.environ.get(api_key_env, "").strip() if api_key_env else ""
  if found:
    # An HTTP library would quote such a key in its complaint.
    if not (found.isascii() and found.isprintable() and " " not in found):
      raise types.SetupError(
        f"the key in {api_key_env} must be printable ASCII without blanks"
      )
    return found
  if _is_local(host):
    return "none"
  if not api_key_env:
    raise types.SetupError(
      f"{role}.api_key_env must name the variable that holds the key for "
      f"{where}, got ''"
    )
  raise types.SetupError(
    f"set the environment variable {api_key_env} to the key for {where}, or "
    f"name another variable in {role}.api_key_env"
  )


def _is_local(host: str) -> bool:
  """Whether a host is this one, or one that only a private network knows."""
  try:
    address = ipaddress.ip_address(host)
  except ValueError:
    return "." not in host or host.endswith((".localhost", ".local"))
  return address.is_private or address.is_loopback or address.is_link_local
