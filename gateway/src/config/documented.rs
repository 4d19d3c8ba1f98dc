//! `docs/configuration.md` against the configuration itself: keys, defaults, and what takes a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Config;

/// No key of any table.
const PROBE: &str = "no_such_key";

/// A row of the page.
struct Row {
    /// What stands there as TOML; none for "–".
    default: Option<String>,
    restart: bool,
}

/// The page's rows by `table.key`: below a heading of level 3 that is the table's header, each with key, type,
/// default and what a change takes.
fn told() -> BTreeMap<String, Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("the page");
    let gateway =
        text.split("\n## ").find(|part| part.starts_with("The gateway")).expect("its part");
    let mut rows = BTreeMap::new();
    let mut table = "";
    for line in gateway.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let header = heading.split('`').nth(1).unwrap_or_default();
            table = header.trim_matches(['[', ']']);
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [key, _kind, default, change, ..] = cells[..] else { panic!("{line}") };
            let key = key.trim_end_matches('`');
            let name = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            let default = default.strip_prefix('`').map(|d| d.trim_end_matches('`').to_owned());
            let restart = match change {
                "restart" => true,
                "reload" => false,
                other => panic!("{name}: neither restart nor reload, but {other}"),
            };
            assert!(rows.insert(name.clone(), Row { default, restart }).is_none(), "{name} twice");
        }
    }
    rows
}

/// The keys of the table that `header` begins, by what is said of one that is not there; none if it is
/// no table of keys.
fn keys(header: &str) -> Option<Vec<String>> {
    let text = format!("{header}\n{PROBE} = 1\n");
    let said = Config::parse(&text, Path::new("probe")).expect_err(header).to_string();
    let (_, names) = said.split_once(&format!("unknown field `{PROBE}`, expected "))?;
    Some(names.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// All keys that are no tables, as `table.key`.
fn walk(table: &str, headers: &str, found: &mut BTreeSet<String>) {
    for key in keys(headers).unwrap_or_default() {
        let name = if table.is_empty() { key } else { format!("{table}.{key}") };
        let below = [format!("[{name}]"), format!("[[{name}]]")]
            .map(|header| format!("{headers}\n{header}"))
            .into_iter()
            .find(|headers| keys(headers).is_some());
        match below {
            Some(headers) => walk(&name, &headers, found),
            None => drop(found.insert(name)),
        }
    }
}

#[test]
fn the_page_has_every_key_and_no_other() {
    let mut there = BTreeSet::new();
    walk("", "", &mut there);
    assert!(there.len() > 50 && there.contains("listen.tls.key"), "{there:?}");
    let told: BTreeSet<String> = told().into_keys().collect();
    let missing: Vec<_> = there.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&there).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:#?}, unknown {unknown:#?}");
}

/// The defaults of the page, written into a file, are those of an empty one.
#[test]
fn the_pages_defaults_are_the_defaults() {
    let mut tables: BTreeMap<String, String> = BTreeMap::new();
    for (name, row) in told() {
        let (table, key) = name.rsplit_once('.').unwrap_or(("", &name));
        // Of those that there may be several of, none is there by default.
        let several = ["vm", "listen_vm", "discover", "token", "grant", "grant.programs"];
        let Some(default) = row.default.filter(|_| !several.contains(&table)) else { continue };
        *tables.entry(table.to_owned()).or_default() += &format!("{key} = {default}\n");
    }
    // An optional table is not there by default either.
    tables.remove("listen.tls");
    let header =
        |table: &str| if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let text: String = tables.iter().map(|(table, keys)| header(table) + keys).collect();
    let shown = |text: &str| {
        let config =
            Config::parse(text, Path::new("page")).unwrap_or_else(|e| panic!("{e}\n{text}"));
        format!("{config:#?}")
    };
    assert_eq!(shown(&text), shown(""));
}

/// What a reload leaves to a restart is marked so, and nothing else.
#[test]
fn the_page_says_what_takes_a_restart() {
    let other = r#"
        state_dir = "/other"
        [listen]
        unix = "/other.sock"
        tcp = "127.0.0.1:1"
        insecure_tcp = true
        token_file = "/other"
        allowed_hosts = ["other"]
        [listen.tls]
        certificate = "/other"
        key = "/other"
        [cors]
        origins = ["https://other"]
        [audit]
        journal = true
        [telemetry]
        log = "debug"
        [limits]
        events_kept = 1
        events_kept_bytes = 1
        event_subscribers = 1
    "#;
    let other = Config::parse(other, Path::new("other")).expect("good");
    let names = other.needs_restart(&Config::default());
    let covers = |name: &str, key: &str| {
        key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    };
    for (key, row) in told() {
        let needs = names.iter().any(|name| covers(name, &key));
        assert_eq!(row.restart, needs, "{key}");
    }
    for name in names {
        assert!(told().keys().any(|key| covers(name, key)), "{name}");
    }
}

/// Every piece of configuration in the pages: blocks marked `toml`, and what a command appends to the file.
#[test]
fn what_the_pages_show_is_good() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut seen = 0;
    for page in std::fs::read_dir(docs).expect("the pages") {
        let page = page.expect("a page").path();
        let text = std::fs::read_to_string(&page).expect("text");
        let blocks = text.split("\n```toml\n").skip(1).map(|rest| (rest, "\n```"));
        let appended = text.split("config.toml <<'END'\n").skip(1).map(|rest| (rest, "\nEND"));
        for (rest, end) in blocks.chain(appended) {
            let block = rest.split(end).next().unwrap_or_default();
            let block =
                block.replace("sha256 = \"…\"", &format!("sha256 = \"{}\"", "0".repeat(64)));
            if let Err(error) = Config::parse(&block, &page) {
                panic!("{error}\n{block}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
}
