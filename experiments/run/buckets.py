"""Objects in a bucket, gs://bucket/…, in the place of files.

Paths are `epath.Path`, with the methods of pathlib. An object is written whole or not at all, and
has a generation: a number that is another one after each write. Nothing can be appended to it. A
server that is overloaded or cannot be reached is asked again for half a minute (gcsfs).
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any

# A bucket's client raises errors of its own; these are the packages that they are from.
_CLIENTS = ("gcsfs", "google", "aiohttp", "requests", "fsspec")
_ABSENT = "0"  # the generation of an object that does not exist


def is_bucket(path: str | pathlib.PurePath) -> bool:
  return "://" in str(path)


def path(flag: str, value: str) -> Any:
  """The path that a flag names, in a bucket that can be read.

  Raises:
    ValueError: another scheme than gs://, no such bucket, no client, or no credentials.
  """
  scheme, _, rest = value.partition("://")
  if scheme == "s3":
    raise ValueError(f"{flag} {value}: s3:// is not supported; use gs://bucket/folder, or a disk "
                     "and aws s3 sync")
  if scheme != "gs" or not rest.strip("/"):
    raise ValueError(f"{flag} {value}: a bucket is given as gs://bucket/folder")
  if importlib.util.find_spec("gcsfs") is None:
    raise ValueError(f"{flag} {value}: gs:// needs gcsfs: pip install 'langevin_jax[buckets]'")
  bucket = rest.split("/")[0]
  try:
    _system().call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
  except FileNotFoundError:
    raise ValueError(f"{flag} {value}: there is no bucket {bucket}; make it with gcloud storage "
                     "buckets create, or choose another") from None
  except Exception as error:
    raise ValueError(f"{flag} {value}: {explained(error) or error}") from error
  from etils import epath
  return epath.Path(value)


@functools.cache
def _system() -> Any:
  """The file system that epath uses too.

  Raises:
    ValueError: GOOGLE_APPLICATION_CREDENTIALS names a file that holds none.
  """
  import fsspec
  import google.auth.exceptions

  # It logs the traceback of what it raises, too.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  # Others write to a bucket as well, TensorStore of this process among them.
  fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
  if file := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
    try:
      google.auth.default()
    except google.auth.exceptions.GoogleAuthError as error:
      # gcsfs would take another account without a word.
      raise ValueError(f"GOOGLE_APPLICATION_CREDENTIALS={file}: no credentials there ("
                       f"{_one_line(error)})") from error
  return fsspec.filesystem("gcs", finalize_on_close=True)


def write(file: pathlib.Path, data: bytes, *, generation: str | None = None) -> str:
  """Replaces an object, and returns its new generation.

  Args:
    generation: the object must still have this one; "0" if there must be none.

  Raises:
    FileExistsError: it has another one: somebody else has written it.
  """
  system, (bucket, name) = _system(), _parts(file)
  if generation is None and len(data) > 2**25:
    system.pipe_file(str(file), data)  # in several requests
    return found[1] if (found := stat(file)) else _ABSENT
  condition = {} if generation is None else {"ifGenerationMatch": generation}
  try:
    return system.call(
        "POST", f"{system._location}/upload/storage/v1/b/{bucket}/o", uploadType="media", name=name,
        headers={"Content-Type": "application/octet-stream"}, data=data, json_out=True, **condition,
    )["generation"]
  except FileExistsError:
    # The answer to the first of several tries may have been lost.
    found = read(file)
    if found is None or found[0] != data:
      raise
    return found[1]


def read(file: pathlib.Path) -> tuple[bytes, str] | None:
  """(the content of an object, its generation), or None where there is none."""
  system, parts = _system(), _parts(file)
  while (found := stat(file)) is not None:
    try:
      _, data = system.call("GET", "b/{}/o/{}", *parts, alt="media", ifGenerationMatch=found[1])
    except (FileExistsError, FileNotFoundError):
      continue  # written or deleted in between
    return data, found[1]
  return None


def stat(file: pathlib.Path) -> tuple[int, str] | None:
  """(the size of an object, its generation), or None where there is none."""
  try:
    found = _system().call("GET", "b/{}/o/{}", *_parts(file), json_out=True)
  except FileNotFoundError:
    return None
  return int(found["size"]), found["generation"]


def delete(file: pathlib.Path, generation: str) -> None:
  """Deletes an object, if it is still of this generation."""
  with contextlib.suppress(FileNotFoundError, FileExistsError):
    _system().call("DELETE", "b/{}/o/{}", *_parts(file), ifGenerationMatch=generation)


def local(place: pathlib.Path) -> pathlib.Path | None:
  """A copy of an object, or of all below a folder, on this machine; None where there is neither.

  It is kept in the user's cache directory for as long as the objects stay the same there.
  """
  system = _system()
  found = system.find(str(place), detail=True)
  if not found:
    return None
  root = str(place).partition("://")[2]
  parts = {name.removeprefix(root).strip("/"): facts["generation"] for name, facts in found.items()}
  digest = hashlib.sha256(json.dumps([str(place), sorted(parts.items())]).encode()).hexdigest()[:16]
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  cache = pathlib.Path(home) / "langevin_jax" / "buckets"
  copy = cache / digest / place.name
  if not copy.exists():
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".") as scratch:
      for name in parts:
        target = pathlib.Path(scratch, digest, place.name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(f"{root}/{name}" if name else root, str(target))
      with contextlib.suppress(OSError):  # another process was first
        os.rename(pathlib.Path(scratch, digest), cache / digest)
  return copy


def put(folder: pathlib.Path, target: pathlib.Path, *, last: str) -> None:
  """Copies the files of a directory of this machine to a bucket, `last` at the end."""
  for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
    _system().put_file(str(file), str(target / file.name))


def join(file: pathlib.Path, header: bytes, parts: Iterable[pathlib.Path]) -> None:
  """Writes an object of `header` and the content of other ones, part by part."""
  stream = _system().open(str(file), "wb")
  try:
    stream.write(header)
    for part in parts:
      stream.write(_system().cat_file(str(part)))
  except BaseException:
    stream.discard()
    stream.closed = True  # closing it would write what there is
    raise
  stream.close()


def delete_folder(folder: pathlib.Path) -> None:
  """Deletes the objects below a folder, if there are any."""
  if _system().isdir(str(folder)):
    _system().rm(str(folder), recursive=True)


def move(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Copies what is in a folder, and then deletes it there."""
  _system().mv(str(folder), str(target), recursive=True)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies an object, or all below a folder, within a bucket."""
  root, to = (str(place).partition("://")[2] for place in (source, target))
  for name in _system().find(str(source)):
    _system().cp_file(name, to + name.removeprefix(root))


def _parts(file: pathlib.Path) -> tuple[str, str]:
  bucket, _, name = str(file).partition("://")[2].partition("/")
  return bucket, name


def is_out_of_reach(error: BaseException) -> bool:
  """Whether it says nothing of what is in a bucket, for gcsfs or TensorStore could not look."""
  said = str(error)
  return bool(explained(error)) or (is_bucket(said) and any(word in said for word in (
      "UNAVAILABLE", "PERMISSION_DENIED", "UNAUTHENTICATED", "DEADLINE_EXCEEDED")))


def explained(error: BaseException) -> str:
  """What a bucket's client says, in one line with the remedy; "" for an error of another kind."""
  said = _one_line(error)
  code = str(getattr(error, "code", "") or "")
  if type(error).__module__.split(".")[0] not in _CLIENTS and not said.startswith("Forbidden"):
    return ""
  if code == "401" or "DefaultCredentials" in type(error).__name__ or "Anonymous" in said:
    return (f"the bucket needs credentials ({said}); run gcloud auth application-default login, or "
            "set GOOGLE_APPLICATION_CREDENTIALS")
  if said.startswith("Forbidden") or code == "403":
    return f"the bucket does not permit it ({said}); the account needs the role Storage Object User"
  return f"the bucket does not answer ({said}); what is complete there is kept"


def _one_line(error: BaseException) -> str:
  return " ".join(str(error).split())[:300] or type(error).__name__
