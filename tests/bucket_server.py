"""A bucket on this machine: gcp-storage-emulator, with preconditions and with failures to order.

The emulator ignores ifGenerationMatch; here a request whose condition does not hold is answered
with 412, as Google's servers do. It serves one request after the other, so that a condition and
what it guards are one step.
"""

import contextlib
import functools
import logging
import re
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http import server as http

import pytest
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage


class Bucket:
  """The bucket gs://runs. `fault` maps (method, path) of a request to a status, or None to serve
  it; `requests` are those that were made."""

  def __init__(self):
    self.storage = Storage(use_memory_fs=True)
    buckets.create_bucket("runs", self.storage)
    self.fault: Callable[[str, str], int | None] = lambda method, path: None
    self.requests: list[tuple[str, str]] = []

  def names(self, prefix: str = "") -> list[str]:
    """The objects under a prefix."""
    try:
      return sorted(found["name"] for found in self.storage.get_file_list("runs", prefix)[0]
                    if isinstance(found, dict))
    except NotFound:
      return []

  def read(self, name: str) -> bytes:
    return self.storage.get_file("runs", name)

  def put(self, name: str, content: bytes) -> None:
    resource = objects._make_object_resource("", "runs", name, "text/plain", str(len(content)))
    self.storage.create_file("runs", name, content, objects._checksums(content, resource))

  def generation(self, name: str) -> str:
    try:
      return self.storage.get_file_obj("runs", name)["generation"]
    except NotFound:
      return "0"


class _Handler(emulator.RequestHandler):

  def __init__(self, bucket: Bucket, *arguments):
    self._bucket = bucket
    super().__init__(bucket.storage, *arguments)

  def _serve(self, method: str) -> None:
    url = urllib.parse.urlparse(self.path)
    path, query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
    self._bucket.requests.append((method, path))
    status = self._bucket.fault(method, path)
    if "/moveTo/" in path:
      status = 400  # the emulator has no such request, and the client copies
    named = query.get("name") or re.findall(r"/b/runs/o/(.*)$", path)
    wanted = query.get("ifGenerationMatch")
    self._generation = self._bucket.generation(named[0]) if named else "0"
    if status is None and wanted and self._generation != wanted[0]:
      status = 404 if method == "GET" and self._generation == "0" else 412
    if status is None:
      emulator.Router(self).handle(method)
      return
    emulator._read_raw_data(self)
    body = b'{"error": {"code": %d, "message": "as ordered"}}' % status
    self.send_response(status, HTTPStatus(status).phrase)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def end_headers(self):
    # TensorStore asks for it beside the content.
    if self.command == "GET" and self._generation != "0":
      self.send_header("x-goog-generation", self._generation)
    super().end_headers()

  def log_message(self, *_):
    pass


for _method in ("GET", "POST", "DELETE", "PUT", "PATCH"):
  setattr(_Handler, f"do_{_method}", functools.partialmethod(_Handler._serve, _method))


def _read_data(handler, query, read=emulator._read_data):
  """The emulator's, which fails for an empty object."""
  found = read(handler, query)
  return b"" if found is None and query.get("uploadType") == ["media"] else found


emulator._read_data = _read_data
logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)


class _Server(http.HTTPServer):

  def handle_error(self, request, address):
    if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that was killed
      super().handle_error(request, address)


@contextlib.contextmanager
def served() -> Iterator[Bucket]:
  """Serves the bucket gs://runs to this process and those that it starts."""
  bucket = Bucket()
  server = _Server(("127.0.0.1", 0), functools.partial(_Handler, bucket))
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  address = f"http://127.0.0.1:{server.server_address[1]}"
  with pytest.MonkeyPatch.context() as patch:
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
      patch.setenv(name, address)
    # gcsfs asks Google what kind of bucket it is, and waits a minute for the answer.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    yield bucket
  server.shutdown()
  server.server_close()
