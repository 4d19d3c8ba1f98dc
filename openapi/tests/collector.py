"""A collector of traces that knows OTLP from opentelemetry's own protocol files, and nothing of the gateway.

Prints the port that it listens on, and then a line of JSON for each request's spans. What the protocol does
not have is refused, as is what is not protobuf.
"""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def known(message):
    """Fails on a field that the protocol does not have, however deep."""
    assert len(UnknownFieldSet(message)) == 0, f"unknown fields in {message}"
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if hasattr(value, "ListFields") else value:
                known(part)


def attributes(pairs):
    found = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
    assert len(found) == len(pairs), f"a key is there twice in {pairs}"
    return found


def shown(span):
    return {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "nanoseconds": [span.start_time_unix_nano, span.end_time_unix_nano],
        "attributes": attributes(span.attributes),
        "status": [Status.StatusCode.Name(span.status.code), span.status.message],
    }


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        request = ExportTraceServiceRequest.FromString(body)
        known(request)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                told = {
                    "resource": attributes(resource.resource.attributes),
                    "scope": [scope.scope.name, scope.scope.version],
                    "spans": [shown(span) for span in scope.spans],
                }
                print(json.dumps(told), flush=True)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_address[1], flush=True)
server.serve_forever()
