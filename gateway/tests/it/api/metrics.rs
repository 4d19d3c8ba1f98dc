//! `/metrics`: every figure of the guide, for those who may see it, whatever guests do.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use qga_gateway::vm::LinkState;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::agent::{Agent, Quirk};
use super::client::{Answer, Ask};
use super::gateway::Gateway;
use super::rights::{grant, token, with};

const OPEN: &str = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";

/// A scrape taken apart: families with their kinds, and samples by name and labels.
pub(super) struct Scrape {
    pub(super) families: BTreeMap<String, String>,
    pub(super) samples: BTreeMap<String, f64>,
    pub(super) text: String,
}

impl Scrape {
    pub(super) async fn of(ask: Ask) -> Self {
        Self::new(&ask.send().await)
    }

    /// Fails on what Prometheus would refuse.
    #[track_caller]
    fn new(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.check_headers();
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let (mut families, mut samples) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else if !line.starts_with("# ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        Self { families, samples, text }
    }

    #[track_caller]
    pub(super) fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }

    fn has(&self, start: &str) -> bool {
        self.samples.keys().any(|name| name.starts_with(start))
    }
}

fn filesystem(mountpoint: &str) -> Value {
    json!({"name": "vda1", "mountpoint": mountpoint, "type": "ext4", "used-bytes": 25,
           "total-bytes": 100, "disk": []})
}

fn agent() -> Agent {
    Agent::default()
        .with("guest-get-fsinfo", Quirk::Value(json!([filesystem("/"), filesystem("/home")])))
        .with(
            "guest-get-load",
            Quirk::Value(json!({"load1m": 0.5, "load5m": 0.25, "load15m": 0.125})),
        )
}

/// A gateway at which everything has happened that there are figures for.
async fn busy() -> Gateway {
    let collector = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:1/\"";
    let gateway = Gateway::configured(agent(), collector).await;
    gateway.wait_for(LinkState::Ready).await;
    gateway.known().await;
    for read in ["filesystems", "load"] {
        gateway.ask("GET", &format!("/vms/vm/{read}")).send().await.expect(200);
    }
    let freeze = || gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({})).send();
    freeze().await.expect(201);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    freeze().await.expect(201);
    gateway
}

/// The figures that the guide lists: kind by name as in the text format.
fn guide() -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        (cells[1].to_owned(), cells[2].to_owned())
    })
    .collect()
}

#[tokio::test]
async fn a_scrape_has_what_the_guide_lists_and_nothing_else() {
    let gateway = busy().await;
    let scrape = Scrape::of(gateway.ask("GET", "/metrics")).await;
    assert_eq!(scrape.families, guide());
    for (sample, value) in [
        ("qga_vms{state=\"frozen\"}", 1.0),
        ("qga_vms{state=\"absent\"}", 1.0),
        ("qga_vms{state=\"ready\"}", 0.0),
        ("qga_vm_link_state{vm=\"vm\",state=\"frozen\"}", 1.0),
        ("qga_vm_agent_info{vm=\"vm\",version=\"11.1.3\"}", 1.0),
        ("qga_vm_lease_state{vm=\"vm\",state=\"frozen\",guard=\"gateway\"}", 1.0),
        ("qga_command_outcomes_total{command=\"guest-fsfreeze-freeze\",outcome=\"ok\"}", 2.0),
        ("qga_command_seconds_count{command=\"guest-get-load\"}", 1.0),
        ("qga_leases{state=\"frozen\"}", 1.0),
        ("qga_leased_vms", 1.0),
        ("qga_thaws_total{cause=\"requested\"}", 1.0),
        ("qga_thaws_total{cause=\"expired\"}", 0.0),
        ("qga_verdicts_total{verdict=\"counts_agree\"}", 1.0),
        ("qga_freeze_held_seconds_count", 1.0),
        (
            "qga_http_requests_total{route=\"/vms/{id}/fsfreeze\",method=\"POST\",status=\"2xx\"}",
            2.0,
        ),
        ("qga_http_requests_in_flight", 1.0),
        ("qga_state_writable", 1.0),
        ("qga_guest_filesystems{vm=\"vm\"}", 2.0),
        ("qga_guest_load{vm=\"vm\",window=\"5m\"}", 0.25),
        (
            "qga_guest_filesystem_used_bytes{vm=\"vm\",mountpoint=\"/home\",device=\"vda1\",\
             fstype=\"ext4\"}",
            25.0,
        ),
    ] {
        assert_eq!(scrape.get(sample), value, "{sample}");
    }
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    for (sample, from, to) in [
        ("qga_vm_link_since_timestamp_seconds{vm=\"vm\"}", -600.0, 0.0),
        ("qga_vm_frozen_timestamp_seconds{vm=\"vm\"}", -600.0, 0.0),
        ("qga_vm_lease_expires_timestamp_seconds{vm=\"vm\"}", -540.0, 60.0),
        ("process_start_time_seconds", -600.0, 0.0),
    ] {
        let distance = scrape.get(sample) - now;
        assert!((from..=to + 1.0).contains(&distance), "{sample}: {distance}");
    }
    assert!(
        scrape.has("qga_vm_last_thaw_timestamp_seconds{vm=\"vm\",cause=\"requested\",verdict=")
    );
    assert!(scrape.get("process_resident_memory_bytes") > 1e6);
}

#[tokio::test]
async fn both_formats_are_as_prometheus_reads_them() {
    let gateway = busy().await;
    let plain = gateway.ask("GET", "/metrics").send().await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let open = gateway.ask("GET", "/metrics").header("accept", OPEN).send().await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type"), kind);
    let text = String::from_utf8(open.body.to_vec()).unwrap();
    assert!(text.ends_with("\n# EOF\n") && text.contains("# UNIT qga_vm_sent_bytes bytes\n"));
    assert!(
        text.contains("# TYPE qga_vm_calls counter\n") && text.contains("\nqga_vm_calls_total{")
    );
    for accept in ["application/json", "text/html"] {
        let refused = gateway.ask("GET", "/metrics").header("accept", accept).send().await;
        refused.problem(406, "not_acceptable");
    }
    let Some(promtool) = qga_testing::promtool() else { return };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(&plain.body).unwrap();
    let said = check.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && complaints.is_empty(), "{complaints}");
}

#[tokio::test]
async fn a_guest_that_never_answers_delays_no_scrape() {
    let stuck = Agent::default().with("guest-get-fsinfo", Quirk::Never);
    let gateway = Gateway::configured(stuck, "").await;
    gateway.wait_for(LinkState::Ready).await;
    let ask = gateway.ask("GET", "/vms/vm/filesystems?timeout_seconds=600");
    let waiting = tokio::spawn(ask.send());
    while gateway.agent.times("guest-get-fsinfo") == 0 {
        tokio::task::yield_now().await;
    }
    let scrape = Scrape::of(gateway.ask("GET", "/metrics")).await;
    assert!(!waiting.is_finished(), "the guest is still silent");
    assert_eq!(scrape.get("qga_http_requests_in_flight"), 2.0);
    assert!(!scrape.has("qga_guest_"), "it has said nothing");
    waiting.abort();
    // Nor does one that takes the connection and says nothing at all.
    let silent = |path: &std::path::Path| {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let _held = listener.accept().await;
            std::future::pending::<()>().await;
        });
    };
    let gateway = Gateway::before(silent, "").await;
    let scrape = Scrape::of(gateway.ask("GET", "/metrics")).await;
    assert_eq!(scrape.get("qga_vm_link_state{vm=\"absent\",state=\"absent\"}"), 1.0);
    assert!(scrape.has("qga_vm_calls_total{vm=\"vm\"}"));
}

#[tokio::test]
async fn a_caller_gets_the_vms_that_it_may_observe_and_all_together_only_with_all() {
    let grants = [
        token("one"),
        grant("one", &["observe"], "vms = [\"absent\"]"),
        token("all"),
        grant("all", &["observe"], "vms = [\"absent\", \"*\"]"),
        token("freezer"),
        grant("freezer", &["freeze"], ""),
        token("none"),
    ];
    let gateway = Gateway::configured(agent(), &grants.concat()).await;
    gateway.wait_for(LinkState::Ready).await;
    gateway.ask("GET", "/vms/vm/filesystems").send().await.expect(200);
    gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    let scrape = |name: &'static str| Scrape::of(with(gateway.ask_tcp("GET", "/metrics"), name));
    let one = scrape("one").await;
    let vms: HashSet<_> = one.text.split("vm=\"").skip(1).map(|s| s.split('"').next()).collect();
    assert_eq!(vms, HashSet::from([Some("absent")]));
    assert_eq!(one.get("qga_vms{state=\"ready\"}"), 0.0, "nor is it counted");
    let names: BTreeSet<_> = one.families.keys().map(String::as_str).collect();
    let theirs = |name: &&&str| {
        name.starts_with("qga_vm")
            || name.starts_with("qga_guest")
            || **name == "qga_gateway_build_info"
    };
    assert_eq!(names.iter().filter(theirs).count(), names.len(), "{names:?}");
    let all = scrape("all").await;
    assert_eq!(all.get("qga_thaws_total{cause=\"requested\"}"), 1.0);
    for name in ["freezer", "none"] {
        let scrape = scrape(name).await;
        assert!(!scrape.text.contains("vm=\""), "{name}: {}", scrape.text);
        assert_eq!(scrape.get("qga_vms{state=\"ready\"}"), 0.0);
        assert!(!scrape.has("process_"), "{name}");
    }
}

#[tokio::test]
async fn whatever_a_guest_calls_its_filesystems_the_scrape_stays_whole() {
    let long = "x".repeat(300);
    let odd = [
        "/",
        "/",
        "/\n\"} 1\nqga_vms 7",
        "\\",
        "\u{202e}",
        "{vm=\"absent\"}",
        "",
        &long,
        &(long.clone() + "y"),
        "é\u{0}",
    ];
    let some: Vec<_> = odd.into_iter().map(filesystem).collect();
    let many: Vec<_> = (0..500).map(|n| filesystem(&format!("/{n}"))).collect();
    let endless: Vec<_> = (0..100_000).map(|n| filesystem(&format!("/{n}"))).collect();
    let agent = Agent::default()
        .with("guest-get-fsinfo", Quirk::values([json!(some), json!(many), json!(endless)]));
    let gateway = Gateway::configured(agent, "").await;
    gateway.wait_for(LinkState::Ready).await;
    let read = || gateway.ask("GET", "/vms/vm/filesystems?timeout_seconds=120").send();
    let scrape = || Scrape::of(gateway.ask("GET", "/metrics"));
    let shown = |scrape: &Scrape| {
        let of = |name: &&String| name.starts_with("qga_guest_filesystem_used_bytes{");
        scrape.samples.keys().filter(of).count()
    };
    read().await.expect(200);
    let first = scrape().await;
    assert_eq!((shown(&first), first.get("qga_guest_filesystems{vm=\"vm\"}")), (8, 10.0));
    assert!(!first.samples.contains_key("qga_vms"), "a guest writes no samples");
    assert!(first.text.lines().all(|line| line.len() < 1000));
    read().await.expect(200);
    let second = scrape().await;
    assert_eq!((shown(&second), second.get("qga_guest_filesystems{vm=\"vm\"}")), (64, 500.0));
    // So much is given to whoever asked, if it is taken at all, and not kept.
    read().await;
    let third = scrape().await;
    assert!(shown(&third) <= 64 && third.text.len() < 200_000);
}

#[tokio::test]
async fn guests_are_asked_by_the_gateway_itself_where_that_is_configured() {
    let gateway = Gateway::configured(agent(), "[metrics]\nrefresh_seconds = 0.05").await;
    gateway.wait_for(LinkState::Ready).await;
    let asked = |times| {
        let agent = gateway.agent.clone();
        async move {
            while agent.times("guest-get-load") < times {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(super::gateway::BOUND, asked(2)).await.expect("in time");
    let scrape = Scrape::of(gateway.ask("GET", "/metrics")).await;
    assert_eq!(scrape.get("qga_guest_load{vm=\"vm\",window=\"1m\"}"), 0.5);
    assert_eq!(scrape.get("qga_guest_filesystems{vm=\"vm\"}"), 2.0);
    // Held by a lease, it is left in peace; its answers from before are still shown.
    gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    let frozen = Scrape::of(gateway.ask("GET", "/metrics")).await;
    assert!(frozen.has("qga_guest_load{vm=\"vm\""));
    let failed = |scrape: &Scrape| {
        let of = |(name, _): &(&String, &f64)| {
            name.starts_with("qga_command_outcomes_total{command=\"guest-get")
                && !name.contains("outcome=\"ok\"")
        };
        scrape.samples.iter().filter(of).map(|(_, count)| count).sum::<f64>()
    };
    assert_eq!(failed(&frozen), 0.0, "{}", frozen.text);
}

#[tokio::test]
async fn bad_answers_and_made_up_commands_are_counted() {
    let agent = Agent::default()
        .with("guest-get-load", Quirk::Value(json!("no")))
        .with("guest-get-time", Quirk::Value(json!([])))
        .with("guest-get-users", Quirk::Error(qga_proto::QgaError::generic("no")));
    let gateway = Gateway::configured(agent, "").await;
    gateway.wait_for(LinkState::Ready).await;
    gateway.known().await;
    for (read, status) in [("load", 502), ("time", 502), ("users", 422)] {
        let answer = gateway.ask("GET", &format!("/vms/vm/{read}")).send().await;
        assert_eq!(answer.status, status, "{read}");
    }
    let scrape = Scrape::of(gateway.ask("GET", "/metrics")).await;
    assert_eq!(scrape.get("qga_vm_bad_replies_total{vm=\"vm\"}"), 2.0);
    let outcome = "qga_command_outcomes_total{command=\"guest-get-users\",outcome=\"error\"}";
    assert_eq!(scrape.get(outcome), 1.0);
}
