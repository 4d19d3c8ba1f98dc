//! The example configuration, and what must never be configured.

use std::path::PathBuf;

use qga_gateway::config::Config;

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
}

#[test]
fn addresses_off_loopback_are_refused_with_file_key_and_cause() {
    for address in ["0.0.0.0:80", "192.168.1.1:80", "[::]:80", "example.org:80"] {
        let text = format!("[listen]\ntcp = \"{address}\"\n");
        let error = Config::parse(&text, "x.toml".as_ref()).unwrap_err().to_string();
        assert!(error.starts_with("x.toml:2: ") && error.contains("tcp"), "{error}");
    }
}
