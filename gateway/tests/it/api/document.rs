//! The OpenAPI document: fresh, served as checked in, complete.

use std::path::PathBuf;

use qga_gateway::api::{Code, openapi_json};
use serde_json::Value;

use super::access::operations;
use super::gateway::Gateway;

const MEND: &str = "make openapi";

fn document() -> Value {
    serde_json::from_str(&openapi_json()).unwrap()
}

#[test]
fn the_checked_in_document_is_the_routers() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../openapi/gateway.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == openapi_json(),
        "openapi/gateway.json is stale; mend it with:\n\n    {MEND}\n"
    );
}

#[tokio::test]
async fn it_is_served() {
    let gateway = Gateway::start().await;
    let answer = gateway.ask("GET", "/openapi.json").send().await;
    answer.expect(200);
    assert_eq!(answer.body, openapi_json().as_bytes());
    assert!(answer.body.ends_with(b"}\n"));
}

#[test]
fn every_operation_says_what_a_caller_must_know() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            assert!(operation["summary"].is_string(), "{name}");
            let public = operation.get("security").is_some();
            assert_eq!(operation["x-qga-right"].is_string(), !public, "{name}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.keys().any(|s| s.starts_with('2') || s == "308" || s == "101"),
                "{name}"
            );
            assert!(responses.contains_key("500"), "{name}");
            assert_eq!(responses.contains_key("401"), !public, "{name}");
            let codes = operation["x-qga-problems"].as_array().unwrap();
            for code in codes {
                let code = Code::ALL.into_iter().find(|c| code == c.as_str()).expect("known");
                assert!(responses.contains_key(code.status().as_str()), "{name}: {code:?}");
            }
        }
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are unique");
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("within the document");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                map.values().for_each(|v| walk(v, document));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, document)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}

#[test]
fn every_code_is_listed_with_an_example() {
    let document = document();
    let listed = document["components"]["schemas"]["ProblemCode"]["enum"].as_array().unwrap();
    assert_eq!(listed.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!(listed.iter().any(|l| l == code.as_str()), "{code:?}");
        let example = &document["components"]["examples"][code.as_str()]["value"];
        assert_eq!(example["status"], code.status().as_u16());
    }
}

#[tokio::test]
async fn every_operation_exists_and_refuses_an_unknown_parameter() {
    let gateway = Gateway::start().await;
    for (method, path, _) in operations() {
        let answer = gateway.ask(&method, &format!("{path}?no_such=1")).send().await;
        let problem = answer.problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains("no_such"), "{method} {path}");
    }
    assert!(!gateway.agent.is_frozen());
}
