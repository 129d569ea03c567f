"""Sets JAX and memory up for this process, before anything is computed.

What holds for a process as a whole, whichever entry point started it: where
compiled programs are kept, how many devices the CPU is, what freed memory does.
"""

import contextlib
import ctypes
import os
import pathlib
import sys

import jax

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def use_compile_cache() -> None:
  """Keeps compiled programs between runs, unless the user chose a place."""
  if not jax.config.jax_compilation_cache_dir:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(home) / "userrl_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def split_cpu(num_devices: int) -> None:
  """Has JAX take the CPU for some devices; without one on it, no matter.

  Raises:
    ValueError: when JAX has started with another number.
  """
  if num_devices == 1:
    return  # or as many as the environment says
  try:
    jax.config.update("jax_num_cpu_devices", num_devices)
  except RuntimeError as error:
    if jax.local_device_count("cpu") != num_devices:
      raise ValueError(
        f"mesh.cpu_devices={num_devices} must be set before JAX starts, which "
        f"has taken the CPU for {jax.local_device_count('cpu')}; build it in a "
        "process of its own"
      ) from error


def keep_freed_memory() -> None:
  """Asks glibc to keep what is freed, where computing is done on the CPU.

  By default it gives every large buffer back and faults it in again at the
  next call, page by page, which costs a sixth of a run's time.
  """
  if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
    return
  with contextlib.suppress(OSError, AttributeError):  # another C library
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most that it takes
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)
