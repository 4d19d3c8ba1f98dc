//! Bytes as a configuration: it is read, or one line says where it is wrong.

use std::path::Path;

use qga_gateway::config::Config;

use super::corpus;

#[test]
fn whatever_a_configuration_says_is_taken_or_refused_in_one_line() {
    qga_testing::fuzz(&corpus("config"), 2000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
        match Config::parse(text, Path::new("x.toml")) {
            Ok(config) => again(text, &config),
            Err(error) => refused(text, &error.to_string()),
        }
    });
}

/// Written as another program would write it, it says the same.
fn again(text: &str, config: &Config) -> u64 {
    let table: toml::Table = toml::from_str(text).expect("it has just been read");
    let other = toml::to_string(&table).expect("what was read can be written");
    let other = Config::parse(&other, Path::new("x.toml"))
        .unwrap_or_else(|error| panic!("{error}, as if written anew: {other}"));
    assert_eq!(format!("{config:?}"), format!("{other:?}"));
    assert!(other.needs_restart(config).is_empty());
    qga_testing::digest((config.vms.len(), config.grants.len(), config.discover.len()))
}

fn refused(text: &str, said: &str) -> u64 {
    assert!(!said.contains(['\n', '\r']), "one line: {said:?}");
    let place = said.strip_prefix("x.toml:").and_then(|said| said.split_once(": "));
    let (line, cause) = place.unwrap_or_else(|| panic!("no line: {said:?}"));
    let line: usize = line.parse().unwrap_or_else(|_| panic!("no line: {said:?}"));
    assert!((1..=text.split('\n').count()).contains(&line), "{said:?} in {text:?}");
    assert!(!cause.is_empty() && !said.contains('\u{1b}'), "{said:?}");
    // The key, without what differs from one text to another.
    qga_testing::digest(cause.split(':').next().map(|key| key.replace(char::is_numeric, "")))
}
