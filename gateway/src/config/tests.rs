use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/qga-gateway.toml")).map_err(|e| e.to_string())
}

fn refusal(text: &str) -> String {
    let said = parse(text).expect_err(text);
    assert!(!said.contains('\n'), "one line: {said:?}");
    said
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = parse("").expect("parses");
    assert_eq!(config.listen.unix, Path::new("/run/qga-gateway/api.sock"));
    assert_eq!(config.listen.tcp, None);
    assert!(config.vms.is_empty() && config.discover.is_empty());
    assert_eq!(config.limits.ttl_default, Duration::from_secs(60));
    assert!(config.timeouts.thaw > config.timeouts.session);
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        r#"
        [listen]
        unix = "/tmp/api.sock"
        tcp = "[::1]:8470"
        token_file = "/tmp/token"
        allowed_hosts = ["gateway.local"]
        [[vm]]
        id = "web-1"
        socket = "/run/vms/web-1.sock"
        labels = { tier = "web" }
        mode = "on-demand"
        owner_uids = [0, 64055]
        qmp = "/run/vms/web-1.qmp"
        [[discover]]
        glob = "/run/qemu-server/*.qga"
        [[discover]]
        glob = "/run/vms/*/qga.sock"
        id = "vm-{dir}"
        mode = "persistent"
        qmp = "/run/vms/{dir}/qmp.sock"
        [limits]
        queue_depth = 8
        backoff_min_seconds = 0.25
        [timeouts]
        freeze_seconds = 120
        "#,
    )
    .expect("parses");
    assert_eq!(config.vms[0].mode, Mode::OnDemand);
    assert_eq!(config.vms[0].labels["tier"], "web");
    assert_eq!(config.discover[0].mode(), Mode::OnDemand, "Proxmox VE's layout");
    assert_eq!(config.discover[0].owners(), [0], "there they are root's");
    assert_eq!(config.discover[1].mode(), Mode::Persistent);
    assert!(config.discover[1].owners().is_empty());
    assert_eq!(config.limits.backoff_min, Duration::from_millis(250));
    assert_eq!(config.timeouts.freeze, Duration::from_secs(120));
    assert_eq!(config.vms[0].qmp.as_deref(), Some(Path::new("/run/vms/web-1.qmp")));
    let qmp = config.discover[1].qmp.as_ref().expect("told");
    assert_eq!(
        qmp.apply(Path::new("/run/vms/db/qga.sock"), None),
        Some("/run/vms/db/qmp.sock".into())
    );
    let id = |n: usize, path: &str| config.discover[n].id.apply(Path::new(path), None);
    assert_eq!(id(0, "/run/qemu-server/100.qga"), "100".parse().ok());
    assert_eq!(id(1, "/run/vms/db/qga.sock"), "vm-db".parse().ok());
    assert_eq!(id(1, "/run/vms/no good/qga.sock"), None);
}

#[test]
fn one_line_names_file_key_and_cause() {
    let said = refusal("[limits]\nqueue_dept = 3\n");
    assert!(
        said.starts_with("/etc/qga-gateway.toml:2: limits.queue_dept: unknown field"),
        "{said}"
    );

    let said = refusal("\n[[vm]]\nid = \"a b\"\nsocket = \"/x\"\n");
    assert!(said.starts_with("/etc/qga-gateway.toml:3: vm[0].id: `a b` is not a VM id"), "{said}");

    let said = refusal("[[vm]]\nid = \"a\"\n");
    assert!(said.contains("vm[0]: missing field `socket`"), "{said}");

    let said = refusal("[timeouts]\nthaw_seconds = -1\n");
    assert!(said.contains(":2: timeouts.thaw_seconds: must be more than 0"), "{said}");

    let said = refusal("[timeouts]\nthaw_seconds = \"3m\"\n");
    assert!(said.contains("timeouts.thaw_seconds: expected a number of seconds"), "{said}");

    let said = refusal("[listen\n");
    assert!(said.starts_with("/etc/qga-gateway.toml:1: "), "{said}");

    let missing = Config::load(Path::new("/nonexistent/x.toml")).expect_err("no file").to_string();
    assert!(missing.starts_with("/nonexistent/x.toml: No such file"), "{missing}");
}

#[test]
fn duplicates_are_refused_with_both_places() {
    let vms = "[[vm]]\nid = \"a\"\nsocket = \"/x\"\n[[vm]]\nid = \"a\"\nsocket = \"/y\"\n";
    let said = refusal(vms);
    assert_eq!(said, "/etc/qga-gateway.toml:5: vm[1].id: `a` is the id of vm[0] already");
    let said = refusal(&vms.replacen("\"a\"", "\"b\"", 1).replace("/y", "/x"));
    assert!(said.contains(":6: vm[1].socket: vm[0] has that socket already"), "{said}");
}

#[test]
fn libvirts_own_channel_is_known_by_its_place_and_used_only_if_told() {
    let path = "/run/libvirt/qemu/channel/1-a/org.qemu.guest_agent.0";
    let vm = format!("[[vm]]\nid = \"a\"\nsocket = \"{path}\"\n");
    assert!(parse(&vm).expect("parses").vms[0].is_left_alone());
    let told = format!("{vm}libvirt_channel = true\n");
    assert!(!parse(&told).expect("parses").vms[0].is_left_alone());
    for (place, own) in [
        (path, true),
        ("/var/lib/libvirt/qemu/channel/target/domain-1-a/org.qemu.guest_agent.0", true),
        ("/run/libvirt/qemu/channel/1-a/org.qga.gateway.0", false),
        ("/run/qga/org.qemu.guest_agent.0", false),
        ("/run/libvirt/org.qemu.guest_agent.0", false),
    ] {
        assert_eq!(is_libvirts(Path::new(place)), own, "{place}");
    }
}

#[test]
fn labels_and_ids_can_be_made_from_the_domain() {
    let text = "[[discover]]\nglob = \"/x/*\"\nid = \"{domain}\"\nlabels = { at = \"{dir}\" }\n";
    let config = parse(text).expect("parses");
    let pattern = &config.discover[0];
    assert!(pattern.needs_domain());
    let path = Path::new("/x/s");
    assert_eq!(pattern.id.apply(path, None), None);
    let id = pattern.id.apply(path, Some("db")).expect("an id");
    assert_eq!(pattern.vm(id, path, Some("db")).labels["at"], "x");
}

#[test]
fn vms_that_connect_are_listed_too_and_not_twice() {
    let vm = "[[vm]]\nid = \"a\"\nsocket = \"/x\"\n";
    let listening = "[[listen_vm]]\nid = \"b\"\nsocket = \"/y\"\nowner_uids = [64055]\n";
    let config = parse(&format!("{vm}{listening}")).expect("parses");
    let [a, b] = config.all_vms().try_into().expect("two");
    assert!(!a.listens && b.listens && b.owner_uids == [64055]);
    let said = refusal(&format!("{vm}{}", listening.replace("/y", "/x")));
    assert!(said.contains(":6: listen_vm[0].socket: vm[0] has that socket"), "{said}");
    let said = refusal(&format!("{vm}{}", listening.replace("\"b\"", "\"a\"")));
    assert!(said.contains(":5: listen_vm[0].id: `a` is the id of vm[0]"), "{said}");
}

#[test]
fn what_only_a_restart_takes_over_is_named() {
    let running = parse("[[vm]]\nid = \"a\"\nsocket = \"/x\"\n").expect("parses");
    let new = "[listen]\ntcp = \"127.0.0.1:1\"\n[limits]\nqueue_depth = 3\nevents_kept = 7\n";
    let new = parse(new).expect("parses");
    assert_eq!(new.needs_restart(&running), ["listen.tcp", "limits.events_kept"]);
}

#[test]
fn qmp_sockets_are_checked() {
    let vm = |id: &str, qmp: &str| {
        format!("[[vm]]\nid = \"{id}\"\nsocket = \"/x/{id}\"\nqmp = \"{qmp}\"\n")
    };
    let said = refusal(&vm("a", "/x/a"));
    assert!(said.contains(":4: vm[0].qmp: is the socket of an agent"), "{said}");
    let said = refusal(&(vm("a", "/x/q") + &vm("b", "/x/q")));
    assert!(said.contains(":8: vm[1].qmp: vm[0] has that socket"), "{said}");
    assert!(refusal(&vm("a", "q")).contains("vm[0].qmp: `q` is not an absolute path"));
    for (qmp, cause) in [("{stem}.qmp", "not an absolute"), ("/x/qmp", "share one socket")] {
        let said = refusal(&format!("[[discover]]\nglob = \"/x/*\"\nqmp = \"{qmp}\"\n"));
        assert!(said.contains("discover[0].qmp: ") && said.contains(cause), "{said}");
    }
}

#[test]
fn beyond_loopback_only_with_tls_or_when_told() {
    for address in ["0.0.0.0:80", "192.0.2.1:8470", "[::]:8470"] {
        let said = refusal(&format!("[listen]\ntcp = \"{address}\"\n"));
        assert!(said.contains("listen.tcp: ") && said.contains("needs [listen.tls]"), "{said}");
        let told = format!("[listen]\ntcp = \"{address}\"\ninsecure_tcp = true\n");
        assert!(parse(&told).is_ok());
        let tls = format!(
            "[listen]\ntcp = \"{address}\"\n[listen.tls]\ncertificate = \"/c\"\nkey = \"/k\"\n"
        );
        assert!(parse(&tls).is_ok());
        let required = refusal(&(tls + "client_certificate_required = true\n"));
        assert!(required.contains("needs client_ca"), "{required}");
    }
    let alone = "[listen.tls]\ncertificate = \"/c\"\nkey = \"/k\"\n";
    assert!(refusal(alone).contains("listen.tls: needs listen.tcp"));
    assert!(refusal("[listen]\ntcp = \"localhost:1\"\n").contains("is no address"));
}

#[test]
fn patterns_and_templates_are_checked() {
    for (glob, cause) in [
        ("run/*.sock", "is not an absolute path"),
        ("/run/**/x", "has a `**`"),
        ("/run/../x", "has a `.` or `..`"),
        ("/run/[", "invalid range pattern"),
    ] {
        let said = refusal(&format!("[[discover]]\nglob = \"{glob}\"\n"));
        assert!(said.contains("discover[0].glob: ") && said.contains(cause), "{said}");
    }
    for (id, cause) in [("vm", "one id"), ("{uuid}", "is none of"), ("{stem", "without its `}`")] {
        let said = refusal(&format!("[[discover]]\nglob = \"/x/*\"\nid = \"{id}\"\n"));
        assert!(said.contains("discover[0].id: ") && said.contains(cause), "{said}");
    }
}

#[test]
fn maxima_bound_defaults() {
    let said = refusal("[limits]\nttl_default_seconds = 100\nttl_max_seconds = 10\n");
    assert!(said.contains(":2: limits.ttl_default_seconds: 100 is more than"), "{said}");
    assert!(
        refusal("[limits]\nqueue_depth = 0\n").contains("limits.queue_depth: must be at least 1")
    );
}

#[test]
fn a_foreign_freeze_is_reported_or_thawed_after_a_time() {
    let vm = |setting: &str| format!("[[vm]]\nid = \"a\"\nsocket = \"/a\"\n{setting}");
    let told = |setting: &str| parse(&vm(setting)).expect("parses").vms[0].external_freeze;
    assert_eq!(told(""), ExternalFreeze::Report);
    assert_eq!(told("external_freeze = \"report\""), ExternalFreeze::Report);
    let ten = ExternalFreeze::ThawAfter(Duration::from_secs(10));
    assert_eq!(told("external_freeze = \"thaw-after=10\""), ten);
    for bad in ["thaw", "thaw-after=", "thaw-after=0", "thaw-after=-1", "thaw-after=inf"] {
        let said = refusal(&vm(&format!("external_freeze = \"{bad}\"")));
        assert!(said.contains("thaw-after=SECONDS"), "{said}");
    }
    let text = "[[listen_vm]]\nid = \"b\"\nsocket = \"/b\"\nexternal_freeze = \"thaw-after=10\"\n\
                [[discover]]\nglob = \"/c/*\"\nexternal_freeze = \"thaw-after=10\"";
    let config = parse(text).expect("parses");
    assert_eq!(config.all_vms()[0].external_freeze, ten);
    let found = config.discover[0].vm("c".parse().expect("id"), Path::new("/c/c"), None);
    assert_eq!(found.external_freeze, ten);
}
