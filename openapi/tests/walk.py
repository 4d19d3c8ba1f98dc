"""Freeze, renew, thaw, upload and exec with the client that openapi-python-client makes.

walk.py URL TOKEN_FILE VM: the client is the package `gateway_client` beside the working directory. Ends with
what it found out, as one line of JSON.
"""

import io
import json
import sys
from pathlib import Path

from gateway_client import AuthenticatedClient
from gateway_client.api.files import read_file_content, write_file_content
from gateway_client.api.freeze import freeze_vm, renew_freeze, show_freeze, thaw_freeze
from gateway_client.api.processes import start_process
from gateway_client.api.vms import show_vm
from gateway_client.models import (
    FreezeBody,
    Lease,
    LeaseState,
    LinkState,
    Problem,
    ProblemCode,
    Process,
    ProcessRequest,
    ProcessState,
    RenewRequest,
    Upload,
    Verdict,
    VmDetail,
)
from gateway_client.types import File

CONTENT = bytes(range(256)) * 1000


def main(url: str, token: str, vm: str) -> dict:
    client = AuthenticatedClient(url, Path(token).read_text().strip(), timeout=60)
    found = show_vm.sync(vm, client=client)
    assert isinstance(found, VmDetail), found
    assert found.link.state == LinkState.READY

    body = FreezeBody(ttl_seconds=30, label="from Python")
    lease = freeze_vm.sync(vm, client=client, body=body, idempotency_key="python-1")
    assert isinstance(lease, Lease), lease
    assert lease.state == LeaseState.FROZEN and lease.label == "from Python"
    # The same request once more is the same freeze.
    again = freeze_vm.sync(vm, client=client, body=body, idempotency_key="python-1")
    assert isinstance(again, Lease) and again.id == lease.id, again
    second = freeze_vm.sync(vm, client=client, body=body)
    assert isinstance(second, Problem), second
    assert second.code == ProblemCode.ALREADY_FROZEN and second.status == 409
    renewed = renew_freeze.sync(lease.id, client=client, body=RenewRequest(ttl_seconds=600))
    assert isinstance(renewed, Lease), renewed
    assert renewed.expires_at > lease.expires_at
    thawed = thaw_freeze.sync(lease.id, client=client)
    assert isinstance(thawed, Lease), thawed
    assert thawed.state == LeaseState.THAWED and thawed.verdict in (Verdict.HELD, Verdict.COUNTS_AGREE)
    ended = show_freeze.sync(lease.id, client=client)
    assert isinstance(ended, Lease) and ended.verdict == thawed.verdict, ended

    path = "/tmp/from python.bin"
    put = write_file_content.sync(
        vm, client=client, body=File(io.BytesIO(CONTENT)), path=path, mode="0600"
    )
    assert isinstance(put, Upload), put
    assert put.size == len(CONTENT)
    got = read_file_content.sync(vm, client=client, path=path)
    assert isinstance(got, File) and got.payload.read() == CONTENT, got

    request = ProcessRequest(argv=["/bin/sh", "-c", "wc -c; exit 3"], stdin="abc")
    ran = start_process.sync(vm, client=client, body=request, wait=30.0)
    assert isinstance(ran, Process), ran
    assert ran.state == ProcessState.EXITED and ran.exit_code == 3, ran
    assert ran.stdout.text.strip() == "3", ran
    nobody = show_vm.sync("nobody", client=client)
    assert isinstance(nobody, Problem) and nobody.code == ProblemCode.VM_NOT_FOUND, nobody
    return {"filesystems": lease.filesystems, "verdict": thawed.verdict, "file": path}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
