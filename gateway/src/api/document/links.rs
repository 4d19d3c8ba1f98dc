//! Links: which operations take what an answer names, for clients and tools that follow them.

use serde_json::{Map, Value, json};

/// What an answer made, and the operations on it.
struct Made {
    by: &'static str,
    /// Its parameters in those operations, and where they are found.
    named: &'static [(&'static str, &'static str)],
    taken_by: &'static [&'static str],
}

const VM: (&str, &str) = ("id", "$request.path.id");
const PATH: (&str, &str) = ("path", "$request.query.path");
const LEASE: &[(&str, &str)] = &[("lease", "$response.body#/id")];
const FREEZE: &[&str] = &["show_freeze", "renew_freeze", "thaw_freeze"];

const ALL: &[Made] = &[
    Made { by: "freeze_vm", named: LEASE, taken_by: FREEZE },
    Made { by: "freeze_vms", named: LEASE, taken_by: FREEZE },
    Made {
        by: "open_file",
        named: &[VM, ("handle", "$response.body#/handle")],
        taken_by: &["read_file", "write_file", "seek_file", "flush_file", "close_file"],
    },
    Made {
        by: "start_process",
        named: &[VM, ("pid", "$response.body#/pid")],
        taken_by: &[
            "show_process",
            "read_output",
            "write_stdin",
            "attach_process",
            "signal_process",
            "delete_process",
        ],
    },
    Made {
        by: "write_file_content",
        named: &[VM, PATH],
        taken_by: &["show_file", "read_file_content", "rename_file", "remove_file_content"],
    },
    Made { by: "make_directory", named: &[VM, PATH], taken_by: &["show_file", "remove_file"] },
];

/// Adds them to the answers of an operation that say that something was made.
pub(super) fn complete(operation: &mut Value) {
    let Some(made) = ALL.iter().find(|made| operation["operationId"] == made.by) else { return };
    let named: Map<String, Value> =
        made.named.iter().map(|(name, from)| ((*name).to_owned(), json!(from))).collect();
    let links: Map<String, Value> = made
        .taken_by
        .iter()
        .map(|to| ((*to).to_owned(), json!({"operationId": to, "parameters": named})))
        .collect();
    // What of an upload is kept with 202 is no file yet.
    let statuses: &[_] = if made.named == LEASE { &["201", "202"] } else { &["201"] };
    for status in statuses {
        if let Some(response) = operation["responses"].get_mut(status) {
            response["links"] = json!(links);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn lead_to_operations_with_these_parameters() {
        let document: Value = serde_json::from_str(&super::super::openapi_json()).unwrap();
        let mut operations = BTreeMap::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                operations.insert(operation["operationId"].as_str().unwrap(), operation);
            }
        }
        for made in ALL {
            assert!(operations[made.by]["responses"]["201"]["links"].is_object(), "{}", made.by);
            let named: BTreeSet<_> = made.named.iter().map(|(name, _)| *name).collect();
            for to in made.taken_by {
                let parameters = operations[to]["parameters"].as_array().unwrap();
                let needed: BTreeSet<_> = parameters
                    .iter()
                    .filter(|p| p["required"] == true && p["name"] != "to")
                    .map(|p| p["name"].as_str().unwrap())
                    .collect();
                assert_eq!(needed, named, "{to}");
            }
        }
        // What is made and told of at a place of its own can be followed to there.
        for (name, operation) in operations {
            let made = &operation["responses"]["201"];
            assert!(made["headers"]["location"].is_null() || made["links"].is_object(), "{name}");
        }
    }
}
