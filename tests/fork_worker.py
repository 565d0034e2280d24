"""Runs entry points in forks of one interpreter that has imported jax and its like already.

A fork begins where `python -m experiments.<module>` would be two seconds of imports later. What is
imported here is of other projects alone: it touches no backend, and leaves one thread. A request
on the socket of argv[1] is a JSON list [module, argument, ...] with three file descriptors: stdout,
stderr, and a socket of messages: the pid and, when the process has ended, its exit code.
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
    warnings.simplefilter("ignore")  # jax fears its threads; none has begun
    return os.fork()


def requested() -> list[str]:
  """Serves until the starter has ended; returns in the forks alone, with what each is to run."""
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


def watch(out: int, err: int, told: int) -> None:
  """Returns in a fork that prints to `out` and `err`; its parent tells how it began and ended."""
  child = fork()
  if child:
    os.write(told, str(child).encode())
    _, status = os.waitpid(child, 0)
    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)
  os.close(told)
  for ours, theirs in ((out, 1), (err, 2)):
    os.dup2(ours, theirs)
    os.close(ours)


if __name__ == "__main__":
  gc.freeze()
  module, *arguments = requested()
  sys.argv[1:] = arguments
  runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
