//! What the gateway's own document says of answers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use qga_e2e::Rest;
use serde_json::Value;

use crate::client::{Answer, Ask};
use crate::host::Host;

/// Statuses by method and path, with the codes of those that are problems.
#[derive(Debug)]
pub(crate) struct Contract(BTreeMap<(String, String), BTreeMap<u16, BTreeSet<String>>>);

impl Contract {
    pub(crate) async fn of(host: &Host) -> Result<Self> {
        let rest = Rest::new(host.socket());
        let document = tokio::task::spawn_blocking(move || rest.get("/openapi.json")).await??;
        let document = document.expect(200)?;
        let mut operations = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().context("no paths")? {
            for (method, operation) in methods.as_object().context("no methods")? {
                let Some(responses) = operation["responses"].as_object() else { continue };
                let statuses: Result<_> = responses.iter().map(codes).collect();
                operations.insert((method.to_uppercase(), path.clone()), statuses?);
            }
        }
        ensure!(operations.len() > 50, "that is no document: {} operations", operations.len());
        Ok(Self(operations))
    }

    /// What is wrong with an answer.
    pub(crate) fn broken(&self, ask: &Ask, answer: &Answer) -> Option<String> {
        let Answer { status, .. } = answer;
        let said = || String::from_utf8_lossy(&answer.bytes).chars().take(400).collect::<String>();
        let statuses = self.0.get(&(ask.method.to_owned(), ask.route.to_owned()));
        let Some(codes) = statuses.and_then(|statuses| statuses.get(status)) else {
            return Some(format!("status {status} is not documented: {}", said()));
        };
        if *status == 500 {
            return Some(format!("a defect of the gateway: {}", said()));
        }
        let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        if *status >= 400 && kind != Some("application/problem+json") {
            return Some(format!("status {status} without a problem: {kind:?}: {}", said()));
        }
        if *status >= 400 && !codes.contains(answer.code()) {
            return Some(format!("the code of a {status} is not documented: {}", said()));
        }
        None
    }
}

/// A response's name lists its codes: `…/agent_unavailable.shutting_down`.
fn codes((status, response): (&String, &Value)) -> Result<(u16, BTreeSet<String>)> {
    let name = response["$ref"].as_str().and_then(|name| name.rsplit('/').next());
    let codes = name.unwrap_or_default().split('.').map(str::to_owned).collect();
    Ok((status.parse().context("a status")?, codes))
}
