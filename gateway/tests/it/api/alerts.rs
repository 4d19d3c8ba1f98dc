//! `deploy/prometheus` and `deploy/grafana`: rules that fire when they should, on figures that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What promtool has to say of a file; nothing without promtool.
#[track_caller]
fn promtool(what: &str, kind: &str, file: &Path) {
    let Some(promtool) = qga_testing::promtool() else { return };
    let said = Command::new(promtool).args([what, kind]).arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{text}");
}

/// The names in an expression that look like figures of ours.
fn figures(expression: &str) -> BTreeSet<String> {
    let ours = |word: &&str| {
        word.starts_with("qga_") || word.starts_with("process_") && word.contains('_')
    };
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(ours).map(str::to_owned).collect()
}

/// All names of samples that the guide lists.
fn known() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for row in read("docs/metrics.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        names.insert(cells[1].to_owned());
        if cells[2] == "histogram" {
            names.extend(["_bucket", "_sum", "_count"].map(|part| cells[1].to_owned() + part));
        }
    }
    names
}

#[test]
fn the_rules_fire_when_they_should_and_on_nothing_else() {
    let dir = repository().join("deploy/prometheus");
    promtool("check", "rules", &dir.join("qga-gateway.rules.yml"));
    promtool("test", "rules", &dir.join("qga-gateway.rules.test.yml"));
    let rules = read("deploy/prometheus/qga-gateway.rules.yml");
    let unknown: Vec<_> = figures(&rules).difference(&known()).cloned().collect();
    assert!(unknown.is_empty(), "no such figures: {unknown:?}");
    let tests = read("deploy/prometheus/qga-gateway.rules.test.yml");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "{alert} is not tested");
    }
}

#[test]
fn the_dashboards_queries_are_good_and_about_figures_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/qga-gateway.json")).unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let mut ids = BTreeSet::new();
    let mut count = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let unknown: Vec<_> = figures(expression).difference(&known()).cloned().collect();
            assert!(unknown.is_empty(), "{}: no such figures: {unknown:?}", panel["title"]);
            let plain = expression.replace("$__rate_interval", "5m");
            let plain = plain.replace("$instance", ".*").replace("$vm", ".*");
            rules += &format!("  - record: panel:{count}\n    expr: {}\n", Value::from(plain));
            count += 1;
        }
    }
    assert!(count > 20);
    // promtool reads no dashboards; as rules it does.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dashboard.yml");
    std::fs::write(&file, rules).unwrap();
    promtool("check", "rules", &file);
}
