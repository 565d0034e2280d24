"""Runs entry points in forks of one interpreter that has already imported jax and the like.

A fork starts two seconds of imports after `python -m experiments.<module>` would. Only other
projects' packages are imported here: no backend is initialized, and there is one thread. A request
on the socket of argv[1] is a JSON list [module, argument, ...] with three file descriptors: stdout,
stderr, and a socket for messages: the pid, and the exit code when the process has ended.
"""

import gc
import json
import os
import runpy
import socket
import sys
import warnings

import flax.linen  # noqa: F401
import jax  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import tensorboardX  # noqa: F401
import tqdm  # noqa: F401
from absl import app  # noqa: F401


def fork() -> int:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jax warns of its threads; none has started
    return os.fork()


def requested() -> list[str]:
  """Serves requests until the socket closes; returns in each fork, with its request."""
  requests = socket.socket(fileno=int(sys.argv[1]))
  while True:
    message, handed, *_ = socket.recv_fds(requests, 2**20, 3)
    if not message:
      sys.exit()
    if fork() == 0:
      requests.close()
      watch(*handed)
      return json.loads(message)
    for each in handed:
      os.close(each)
    while os.waitpid(-1, os.WNOHANG)[0]:
      pass


def watch(out: int, err: int, messages: int) -> None:
  """Returns in a fork that prints to `out` and `err`; its parent reports the pid and exit code."""
  child = fork()
  if child:
    os.write(messages, str(child).encode())
    _, status = os.waitpid(child, 0)
    os.write(messages, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)
  os.close(messages)
  for ours, theirs in ((out, 1), (err, 2)):
    os.dup2(ours, theirs)
    os.close(ours)


if __name__ == "__main__":
  gc.freeze()
  module, *arguments = requested()
  sys.argv[1:] = arguments
  runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
