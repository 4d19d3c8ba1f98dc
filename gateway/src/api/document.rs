//! The OpenAPI document: the router's own, completed by the rules that hold for every operation.

mod links;
mod shapes;
mod syntax;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::error::{Code, ProblemBody};
use super::events::EventBody;
use super::extract::NoQuery;
use super::idempotency;
use super::processes::{GapBody, OutputBody};

/// What any call to a guest can run into.
pub(super) const CALL_PROBLEMS: &[Code] = &[
    Code::VmNotFound,
    Code::AgentUnavailable,
    Code::QueueFull,
    Code::AgentTimeout,
    Code::AgentBadReply,
    Code::AgentError,
    Code::CommandUnsupported,
    Code::CommandDisabled,
    Code::VmFrozen,
    Code::VmPaused,
];

/// What a freeze can run into.
pub(super) const FREEZE_PROBLEMS: &[Code] = &[
    Code::VmNotFound,
    Code::AgentUnavailable,
    Code::QueueFull,
    Code::AgentTimeout,
    Code::AgentBadReply,
    Code::AgentError,
    Code::NothingToFreeze,
    Code::NoSuchMountpoint,
    Code::FreezeIncomplete,
    Code::TooManyFrozen,
    Code::StateUnwritable,
    Code::CommandUnsupported,
    Code::CommandDisabled,
    Code::AlreadyFrozen,
    Code::LeaseConflict,
    Code::VmPaused,
    Code::ShuttingDown,
];

/// What renewing and thawing can run into.
pub(super) const LEASE_PROBLEMS: &[Code] = &[
    Code::VmNotFound,
    Code::LeaseNotFound,
    Code::LeaseConflict,
    Code::HoldLimit,
    Code::StateUnwritable,
    Code::LeaseMismatch,
    Code::AgentUnavailable,
    Code::QueueFull,
    Code::AgentTimeout,
    Code::AgentBadReply,
    Code::AgentError,
    Code::CommandUnsupported,
    Code::CommandDisabled,
    Code::VmPaused,
    Code::ShuttingDown,
];

const DESCRIPTION: &str = "\
REST for the inside of virtual machines, through the QEMU guest agent.

* Guest data keeps QGA's names (`buf-b64`); what the gateway adds is `snake_case`. Times are RFC 3339 in UTC.
* Every answer that is not a success is a problem (RFC 9457) with a stable `code`. `outcome` tells \
how far a guest command came, `retryable` whether the same request may simply be sent again. A path \
that is not listed here answers `route_not_found`, a method that is not `method_not_allowed`. What \
is no HTTP request answers `bad_request`, `head_too_large` or `request_timeout`, and the connection \
is closed.
* Over the Unix socket the kernel names the caller, unless a request carries a bearer token. Over \
TCP every operation needs one, save those that list no security. What a caller may do with which \
VM the gateway's configuration says; a VM on which it has no right at all is `vm_not_found`.
* Unknown members and query parameters are refused, so that nothing is ignored that was meant. \
Integers are written without a point or exponent.
* The API only grows. Answers may get more members, and more words where there is one of a list: clients \
take both.
* `x-qga-right` is the right that an operation needs, `x-qga-command` the guest command that it \
sends, `x-qga-problems` the codes that it can answer with.
* Every answer carries `x-request-id`: the caller's own, or a new one; the log has it too.";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "qga-gateway",
        description = DESCRIPTION,
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "vms", description = "VMs, without asking their guests"),
        (name = "agent", description = "The guest agent itself"),
        (name = "guest", description = "What a guest says of itself, and its settings"),
        (name = "freeze", description = "Frozen filesystems, held by leases"),
        (name = "power", description = "Shutting down and suspending"),
        (name = "accounts", description = "Passwords and keys of the guest's users"),
        (name = "files", description = "Files in the guest: whole, as streams of bytes, or by handle"),
        (name = "processes", description = "Programs in the guest, with their input and output as streams"),
        (name = "events", description = "What happens to VMs, links and freezes, as it happens"),
        (name = "gateway", description = "The gateway itself"),
    ),
    components(schemas(EventBody<'_>, GapBody, OutputBody, ProblemBody, Code)),
    security(("token" = []))
)]
struct Frame;

/// The document before any operation is in it.
pub(super) fn frame() -> utoipa::openapi::OpenApi {
    let mut frame = Frame::openapi();
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The one line of the gateway's token file."))
        .build();
    frame
        .components
        .get_or_insert_default()
        .security_schemes
        .insert("token".into(), SecurityScheme::Http(token).into());
    frame
}

/// The document as it is served and checked in: keys in order, a line feed at the end.
pub fn openapi_json() -> String {
    let (_, api) = super::operations().split_for_parts();
    // The document is made of maps with string keys: its serialization cannot fail.
    let mut document = serde_json::to_value(api).unwrap_or_default();
    complete(&mut document);
    format!("{document:#}\n")
}

/// Adds what holds for every operation: its general problems, each with status and example.
fn complete(document: &mut Value) {
    let examples: Map<String, Value> = Code::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), json!({"value": example(*code)})))
        .collect();
    document["components"]["examples"] = examples.into();
    document["components"]["headers"] = json!({
        "RequestId": {
            "description": "The request's id, in the gateway's log too.",
            "schema": {"type": "string"}
        },
        "IdempotencyReplayed": {
            "description": "There if this is the answer to an earlier request with the same key.",
            "schema": {"type": "string", "enum": ["true", "without-body"]}
        },
        "RetryAfter": {
            "description": "Seconds until another try makes sense.",
            "schema": {"type": "integer"}
        },
        "WwwAuthenticate": {
            "description": "The scheme that is needed.",
            "schema": {"type": "string"}
        }
    });
    let codes: Vec<String> = Code::ALL.iter().map(|code| line(*code)).collect();
    document["components"]["schemas"]["ProblemCode"]["description"] =
        format!("What went wrong, for programs:\n\n* {}", codes.join("\n* ")).into();
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        shapes::name_forms(schemas);
        syntax::complete_schemas(schemas);
    }
    document["servers"] = json!([{"url": "/", "description": "The gateway that serves this."}]);
    let schemas = document["components"]["schemas"].clone();
    let mut problems = Map::new();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for item in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            complete_operation(method, operation, &mut problems);
            relax_body(operation, &schemas);
            syntax::complete(operation, &schemas);
            shapes::bytes(operation);
            links::complete(operation);
        }
    }
    document["components"]["responses"] = problems.into();
}

/// Whether an operation takes an `Idempotency-Key`: every POST that changes a guest does.
fn takes_key(method: &str, operation: &Value) -> bool {
    let right = operation["x-qga-right"].as_str();
    let of_gateway = operation["tags"][0] == "gateway";
    method == "post" && !of_gateway && right.is_some_and(|right| right != "observe")
}

/// The paths on which a POST takes an `Idempotency-Key`.
pub(super) fn keyed_paths(api: &utoipa::openapi::OpenApi) -> Vec<(String, String)> {
    // As above: its serialization cannot fail.
    let document = serde_json::to_value(api).unwrap_or_default();
    let paths = document["paths"].as_object().into_iter().flatten();
    let keyed = paths.filter(|(_, item)| takes_key("post", &item["post"]));
    let right = |item: &Value| item["post"]["x-qga-right"].as_str().unwrap_or_default().to_owned();
    keyed.map(|(path, item)| (path.clone(), right(item))).collect()
}

const KEY_DESCRIPTION: &str = "\
Makes it safe to send the request again: 1 to 255 visible characters, new for each thing to be done. \
For 24 hours a repeat by the same caller on the same path gets the first answer, with \
`idempotency-replayed: true`, also after a restart of the gateway; one that comes while the first is \
in hand waits for it. Answers that say that nothing was sent are not kept. Of an answer larger than \
64 KiB only the status is kept: `idempotency-replayed: without-body`. A `dry_run` uses none up.";

fn complete_operation(method: &str, operation: &mut Value, problems: &mut Map<String, Value>) {
    let public = operation.get("security").is_some();
    let keyed = takes_key(method, operation);
    let mut codes = vec!["bad_request", "forbidden", "internal_error", "not_acceptable"];
    if !public {
        codes.extend(["unauthenticated", "too_many_requests"]);
    }
    if matches!(method, "post" | "put" | "patch" | "delete") {
        codes.extend(["body_too_large", "gateway_busy", "request_timeout"]);
        codes.push("unsupported_media_type");
    }
    if keyed {
        codes.extend(idempotency::PROBLEMS.iter().map(|code| code.as_str()));
        let parameter = json!({
            "name": idempotency::KEY.as_str(),
            "in": "header",
            "required": false,
            "description": KEY_DESCRIPTION,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255}
        });
        match operation["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(parameter),
            None => operation["parameters"] = json!([parameter]),
        }
    }
    let own = operation["x-qga-problems"].as_array().cloned().unwrap_or_default();
    codes.extend(own.iter().filter_map(Value::as_str));
    let codes: BTreeSet<Code> =
        Code::ALL.into_iter().filter(|code| codes.contains(&code.as_str())).collect();
    let mut by_status: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    for code in &codes {
        by_status.entry(code.status().as_str().to_owned()).or_default().push(*code);
    }
    operation["x-qga-problems"] = json!(codes);
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        response["headers"]["x-request-id"] = json!({"$ref": "#/components/headers/RequestId"});
        if keyed {
            response["headers"][idempotency::REPLAYED.as_str()] =
                json!({"$ref": "#/components/headers/IdempotencyReplayed"});
        }
    }
    for (status, codes) in by_status {
        let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
        let name = names.join(".");
        operation["responses"][status] = json!({"$ref": format!("#/components/responses/{name}")});
        problems.entry(name).or_insert_with(|| problem_response(&codes));
    }
}

/// Without a body, a request stands for the one whose members are all absent.
fn relax_body(operation: &mut Value, schemas: &Value) {
    let Some(body) = operation.get_mut("requestBody") else { return };
    let reference = &body["content"]["application/json"]["schema"]["$ref"];
    let name = reference.as_str().and_then(|r| r.rsplit('/').next()).unwrap_or_default();
    if schemas[name].get("required").is_none() {
        body["required"] = false.into();
    }
}

/// Codes of one status share a response, with an example each.
fn problem_response(codes: &[Code]) -> Value {
    let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
    let mut examples = Map::new();
    for code in codes {
        match code {
            Code::AgentUnavailable
            | Code::QueueFull
            | Code::TooManySubscribers
            | Code::TooManyRequests
            | Code::TooManyProcesses
            | Code::TooManyTickets
            | Code::TooManyTransfers
            | Code::TooManyFileHandles
            | Code::StateUnwritable
            | Code::GatewayBusy
            | Code::ShuttingDown => {
                headers["retry-after"] = json!({"$ref": "#/components/headers/RetryAfter"});
            }
            Code::Unauthenticated => {
                headers["www-authenticate"] =
                    json!({"$ref": "#/components/headers/WwwAuthenticate"});
            }
            _ => {}
        }
        let name = code.as_str();
        examples.insert(name.into(), json!({"$ref": format!("#/components/examples/{name}")}));
    }
    let lines: Vec<String> = codes.iter().map(|code| line(*code)).collect();
    json!({
        "description": lines.join("\n"),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": examples
            }
        }
    })
}

fn line(code: Code) -> String {
    format!("`{}` ({}): {}.", code.as_str(), code.status().as_u16(), code.title())
}

/// A problem as it looks, with the members that every problem has.
fn example(code: Code) -> Value {
    json!({
        "type": format!("urn:qga:problem:{}", code.as_str()),
        "title": code.title(),
        "status": code.status().as_u16(),
        "code": code.as_str(),
        "detail": "What happened this time, and what to do about it."
    })
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi_json().into());

/// Get this document
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "gateway",
    responses((
        status = 200,
        description = "The OpenAPI document.",
        content_type = "application/json",
        body = Object
    )),
    security(())
)]
pub(super) async fn openapi_document(_: NoQuery) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}
