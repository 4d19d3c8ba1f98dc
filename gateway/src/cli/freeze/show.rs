//! Freezes, leases and verdicts, for people.

use qga_gateway::client::printable;
use serde_json::Value;

use crate::cli::out::{Table, text, until};

/// Of a list in JSON.
pub(in crate::cli) fn list(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A lease's VMs, with commas.
pub(in crate::cli) fn vms(lease: &Value) -> String {
    let members = lease["members"].as_array().into_iter().flatten();
    members.filter_map(|member| member["vm_id"].as_str()).collect::<Vec<_>>().join(", ")
}

/// A lease that was just made or renewed.
pub(in crate::cli) fn frozen(lease: &Value) -> String {
    let mut lines = Lines::default();
    lines.add("lease", &text(&lease["id"]));
    lines.add("vms", &vms(lease));
    let spread = lease["spread_ms"].as_i64().filter(|_| lease["vm_id"].is_null());
    let spread = spread.map(|ms| format!(", within {ms} ms")).unwrap_or_default();
    let count = text(&lease["filesystems"]);
    let since = text(&lease["frozen_at"]);
    lines.add("frozen", &format!("{count} filesystems since {since}{spread}"));
    for skipped in list(&lease["skipped"]) {
        lines.add("skipped", skipped);
    }
    let members = lease["members"].as_array().into_iter().flatten();
    for member in members.filter(|member| member["state"] == "failed") {
        let why = list(&member["evidence"]).join("; ");
        lines.add("not frozen", &format!("{}: {why}", text(&member["vm_id"])));
    }
    let left = until(&lease["expires_at"]).map(|left| format!(", in {left}")).unwrap_or_default();
    let guard = match lease["guard"].as_str() {
        Some("gateway+agent") => {
            "by the gateway, and by the guest itself should the gateway be gone"
        }
        _ => "by the gateway alone: a stock agent has no deadline of its own",
    };
    lines.add("thaws", &format!("{}{left}; {guard}", text(&lease["expires_at"])));
    if let Some(most) = lease["max_hold_seconds"].as_u64() {
        lines.add("at most", &format!("{most} s: then Windows lets go, whatever is renewed"));
    }
    lines.0
}

/// A lease that has ended.
pub(in crate::cli) fn verdict(lease: &Value) -> String {
    let mut lines = Lines::default();
    lines.add("lease", &text(&lease["id"]));
    lines.add("vms", &vms(lease));
    let meaning = match lease["verdict"].as_str() {
        Some("held") => "nothing was written from freeze to thaw",
        Some("counts_agree") => "as far as a stock agent can show, nothing was written meanwhile",
        Some("partial") => "some filesystems were never frozen",
        Some("lost") => "it ended early: what was copied is worth nothing",
        Some("unknown") => "nobody can tell whether it held: do not rely on what was copied",
        _ => "it never was in force",
    };
    lines.add("verdict", &format!("{}: {meaning}", text(&lease["verdict"])));
    let (from, to) = (text(&lease["frozen_at"]), text(&lease["thawed_at"]));
    lines.add("frozen", &format!("from {from} to {to}, ended: {}", text(&lease["thaw_cause"])));
    for (name, member) in [("evidence", "evidence"), ("skipped", "skipped")] {
        for sentence in list(&lease[member]) {
            lines.add(name, sentence);
        }
    }
    if let Some(error) = lease["thaw_error"].as_str() {
        lines.add("complaint", error);
    }
    lines.0
}

/// Whether a copy made while it was in force is what its maker asked for.
pub(in crate::cli) fn is_good(lease: &Value) -> bool {
    match lease["verdict"].as_str() {
        Some("held" | "counts_agree") => true,
        // Asked for: the rest was to be left as it is.
        Some("partial") => lease["policy"] == "best_effort",
        _ => false,
    }
}

/// What would freeze.
pub(super) fn preview(answer: &Value) -> String {
    let mut table = Table::new(&["VM", "MOUNTPOINT", "TYPE", "FREEZES", "WHY"]);
    for member in answer["members"].as_array().into_iter().flatten() {
        let vm = text(&member["vm_id"]);
        for filesystem in member["filesystems"].as_array().into_iter().flatten() {
            let freezes = if filesystem["would_freeze"] == true { "yes" } else { "no" };
            let why = filesystem["reason"].as_str().unwrap_or_default().to_owned();
            let (mountpoint, kind) = (text(&filesystem["mountpoint"]), text(&filesystem["type"]));
            table.row([vm.clone(), mountpoint, kind, freezes.into(), why]);
        }
        for skipped in list(&member["skipped"]) {
            let why = "is no mount point".to_owned();
            table.row([vm.clone(), skipped.to_owned(), "-".into(), "no".into(), why]);
        }
        if let Some(problem) = member["problem"]["detail"].as_str() {
            table.row([vm, "-".into(), "-".into(), "no".into(), problem.to_owned()]);
        }
    }
    let all = if answer["would_freeze"] == true { "would freeze" } else { "would not freeze" };
    format!("{}{all} ({})\n", table.text(), text(&answer["policy"]))
}

/// A name and what is to be said of it, line by line.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        self.0 += &format!("{name:<11} {}\n", printable(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_freeze_that_held_is_good() {
        for (verdict, policy, good) in [
            ("held", "required", true),
            ("counts_agree", "required", true),
            ("partial", "best_effort", true),
            ("partial", "required", false),
            ("lost", "best_effort", false),
            ("unknown", "required", false),
        ] {
            assert_eq!(is_good(&json!({"verdict": verdict, "policy": policy})), good, "{verdict}");
        }
        assert!(!is_good(&json!({"verdict": null, "policy": "required"})));
    }
}
