//! What a client of the last release relies on stays: `openapi/released.json` beside the router.
//!
//! The API only grows. A request that was right stays right, and an answer holds what it held. What
//! grows without being a break: paths, operations, parameters and members that may be absent,
//! members of answers, and new words where an answer has one of a list.

mod breaks;
mod operations;
mod schemas;

use std::path::PathBuf;

use qga_gateway::api::openapi_json;
use serde_json::Value;

use operations::breaks;

const RELEASED: &str = "openapi/released.json";

#[test]
fn nothing_breaks_clients_of_the_last_release() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(RELEASED);
    let released = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{RELEASED}: {e}"));
    let released: Value = serde_json::from_str(&released).unwrap();
    let now: Value = serde_json::from_str(&openapi_json()).unwrap();
    let found = breaks(&released, &now);
    assert!(
        found.is_empty(),
        "clients of the last release ({RELEASED}) would break:\n\n* {}\n\n\
         What to do: keep what was there and add the new beside it. See \"Releases\" in \
         CONTRIBUTING.md.\n",
        found.join("\n* ")
    );
}
