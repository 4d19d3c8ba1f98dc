//! The example configuration, and what must never be configured.

use std::path::PathBuf;

use qga_gateway::config::{Config, Limits, Timeouts};

#[test]
fn the_example_parses() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/qga-gateway.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.listen.unix, PathBuf::from("/run/qga-gateway/api.sock"));
    assert_eq!(config.listen.tcp, None, "TCP only when asked for");
    // Everything that is commented out must parse too.
    let text = std::fs::read_to_string(&path).unwrap();
    let all: String = text
        .lines()
        .map(|line| line.strip_prefix("#=").unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(all, text);
    let config = Config::parse(&all, &path).unwrap_or_else(|e| panic!("{e}"));
    assert!(config.listen.tcp.is_some() && !config.vms.is_empty() && !config.discover.is_empty());
    // Nobody reads there a default that is none.
    let (limits, timeouts) = (Limits::default(), Timeouts::default());
    assert_eq!(format!("{:?}", config.limits), format!("{limits:?}"));
    assert_eq!(format!("{:?}", config.timeouts), format!("{timeouts:?}"));
}

/// The keys that a table knows, as it says itself when it is given another one.
fn keys(table: &str) -> Vec<String> {
    let text = format!("{table}\nno_such_key = 1\n");
    let error = Config::parse(&text, "x.toml".as_ref()).unwrap_err().to_string();
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{table}: {error}"));
    let keys: Vec<String> = expected.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect();
    assert!(!keys.is_empty(), "{table}: {error}");
    keys
}

#[test]
fn every_key_that_there_is_stands_in_the_example() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/qga-gateway.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = || text.lines().map(|line| line.strip_prefix("#=").unwrap_or(line));
    let mut missing = Vec::new();
    for key in keys("") {
        let table = format!("[{key}]");
        let is_there = lines().any(|line| {
            line.contains(&table) || line.split_once(" = ").is_some_and(|l| l.0 == key)
        });
        if !is_there {
            missing.push(key);
        }
    }
    let tables = [
        "[listen]",
        "[listen.tls]",
        "[cors]",
        "[audit]",
        "[limits]",
        "[timeouts]",
        "[metrics]",
        "[telemetry]",
        "[[vm]]",
        "[[listen_vm]]",
        "[[discover]]",
        "[[grant]]",
        "[[token]]",
    ];
    for table in tables {
        for key in keys(table) {
            // In any table of that name.
            let mut within = "";
            let is_there = lines().any(|line| {
                if line.starts_with('[') {
                    within = line;
                }
                let own = within == table && line.split_once(" = ").is_some_and(|l| l.0 == key);
                own || line == format!("{}.{key}]", table.trim_end_matches(']'))
            });
            if !is_there {
                missing.push(format!("{table} {key}"));
            }
        }
    }
    assert!(missing.is_empty(), "deploy/qga-gateway.toml says nothing of {missing:?}");
}

#[test]
fn addresses_off_loopback_are_refused_with_file_key_and_cause() {
    for address in ["0.0.0.0:80", "192.168.1.1:80", "[::]:80", "example.org:80"] {
        let text = format!("[listen]\ntcp = \"{address}\"\n");
        let error = Config::parse(&text, "x.toml".as_ref()).unwrap_err().to_string();
        assert!(error.starts_with("x.toml:2: ") && error.contains("tcp"), "{error}");
    }
}
