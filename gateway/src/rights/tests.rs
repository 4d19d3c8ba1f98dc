use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::config::Config;

fn rules(text: &str) -> Rules {
    let config = Config::parse(text, Path::new("c.toml")).unwrap();
    Rules::new(&config.grants, &config.tokens)
}

fn token(name: &str) -> Identity {
    Principal::new(format!("token:{name}")).into()
}

fn may(rules: &Rules, who: &Identity, right: Right, id: &str, labels: &[(&str, &str)]) -> bool {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let id = id.parse().unwrap();
    rules.allow(who, right, Target { id: &id, labels: Some(&labels) })
}

#[test]
fn what_no_grant_gives_nobody_has_but_root_and_the_tokens_file() {
    let rules = rules("");
    let own = rustix::process::geteuid().as_raw();
    for who in [Identity::unix(0, 0), Identity::unix(own, 5), token("default")] {
        assert!(may(&rules, &who, Right::Raw, "web-1", &[]), "{who:?}");
    }
    for who in [Identity::unix(own + 77, 0), token("other")] {
        assert!(!may(&rules, &who, Right::Observe, "web-1", &[]), "{who:?}");
    }
}

#[test]
fn a_grant_gives_its_rights_on_the_vms_that_it_selects() {
    let rules = rules(
        r#"
        [[grant]]
        to = ["token:backup", "unix:gid=984"]
        preset = "backup"
        vms = ["web-*", "db"]
        labels = { tier = "prod" }
        [[grant]]
        to = ["token:backup"]
        rights = ["exec"]
        vms = ["db"]
        [[grant]]
        to = ["token:default"]
        rights = ["observe"]
        "#,
    );
    let prod: &[_] = &[("tier", "prod"), ("x", "y")];
    for who in [token("backup"), Identity::unix(4711, 984)] {
        assert!(may(&rules, &who, Right::Freeze, "web-1", prod));
        assert!(may(&rules, &who, Right::Observe, "db", prod));
        assert!(!may(&rules, &who, Right::Freeze, "web-1", &[("tier", "test")]));
        assert!(!may(&rules, &who, Right::Freeze, "web", prod), "the glob wants a hyphen");
        assert!(!may(&rules, &who, Right::FreezeForce, "db", prod), "in no preset");
    }
    assert!(may(&rules, &token("backup"), Right::Exec, "db", &[]));
    assert!(!may(&rules, &Identity::unix(4711, 984), Right::Exec, "db", prod));
    // Named by a grant, it has what that gives and no more.
    assert!(may(&rules, &token("default"), Right::Observe, "db", &[]));
    assert!(!may(&rules, &token("default"), Right::Freeze, "db", prod));
    // One that has gone can be selected by its id alone.
    let id = "db".parse().unwrap();
    let gone = Target { id: &id, labels: None };
    assert!(!rules.allow(&token("backup"), Right::Freeze, gone));
    assert!(rules.allow(&token("backup"), Right::Exec, gone));
    assert!(rules.show(&token("backup"), gone));
    assert!(!rules.show(&Identity::unix(4711, 984), gone));
    assert!(rules.know(&Identity::unix(4711, 984), Right::Freeze));
    assert!(!rules.know(&token("nobody"), Right::Freeze));
}

#[test]
fn a_group_means_its_members_whichever_of_theirs_it_is() {
    let rules = rules("[[grant]]\nto = [\"unix:gid=984\"]\npreset = \"observer\"");
    let who = |groups: &[u32]| Identity::unix(4711, 100).in_groups(groups.iter().copied());
    assert!(may(&rules, &who(&[27, 984]), Right::Observe, "web-1", &[]));
    assert!(may(&rules, &Identity::unix(4711, 984), Right::Observe, "web-1", &[]));
    assert!(!may(&rules, &who(&[27]), Right::Observe, "web-1", &[]));
    assert!(!may(&rules, &who(&[]), Right::Observe, "web-1", &[]));
}

#[test]
fn a_limited_right_is_none_to_those_who_know_no_limits_and_a_sum_to_those_who_do() {
    let rules = rules(
        r#"
        [[grant]]
        to = ["token:a", "token:b"]
        rights = ["files_read", "observe"]
        files = ["/var/log", "/srv/"]
        vms = ["web-*"]
        [[grant]]
        to = ["token:a"]
        rights = ["files_read", "files_write", "exec"]
        files = ["/tmp"]
        allow_unenforced = true
        programs = [{ path = "/bin/true" }]
        [[grant]]
        to = ["token:b"]
        rights = ["files_read", "exec"]
        vms = ["web-1"]
        "#,
    );
    let id = |text: &str| text.parse::<VmId>().unwrap();
    let files = |name: &str, right, vm: &str| {
        let vm = id(vm);
        match rules.files(&token(name), right, Target { id: &vm, labels: None }) {
            Scope::Nothing => "nothing".to_owned(),
            Scope::Everything => "everything".to_owned(),
            Scope::Only(all) => {
                let rule =
                    |r: &FileRule| format!("{}{}", r.prefix, if r.unenforced { "!" } else { "" });
                all.iter().map(rule).collect::<Vec<_>>().join(" ")
            }
        }
    };
    assert_eq!(files("a", Right::FilesRead, "web-1"), "/var/log /srv /tmp!");
    assert_eq!(files("a", Right::FilesRead, "db"), "/tmp!");
    assert_eq!(files("a", Right::FilesWrite, "web-1"), "/tmp!");
    assert_eq!(files("b", Right::FilesRead, "web-1"), "everything");
    assert_eq!(files("b", Right::FilesRead, "web-2"), "/var/log /srv");
    assert_eq!(files("b", Right::FilesWrite, "web-1"), "nothing");
    assert_eq!(files("default", Right::FilesWrite, "web-1"), "everything");
    for right in [Right::FilesRead, Right::FilesWrite, Right::Exec] {
        assert!(!may(&rules, &token("a"), right, "web-1", &[]), "{right:?}");
    }
    assert!(may(&rules, &token("b"), Right::FilesRead, "web-1", &[]));
    assert!(may(&rules, &token("a"), Right::Observe, "web-1", &[]), "it has no limits");
    let vm = id("db");
    let programs = |name| rules.programs(&token(name), Target { id: &vm, labels: None });
    assert!(matches!(programs("a"), Scope::Only(all) if all.len() == 1));
    assert_eq!(programs("b"), Scope::Nothing);
}

#[test]
fn whoever_opens_the_socket_may_be_meant() {
    let rules = rules("[[grant]]\nto = [\"unix:any\"]\npreset = \"observer\"");
    assert!(may(&rules, &Identity::unix(4711, 4712), Right::Observe, "web-1", &[]));
    assert!(!may(&rules, &token("a"), Right::Observe, "web-1", &[]));
    // Root is not named by it, and keeps everything.
    assert!(may(&rules, &Identity::unix(0, 0), Right::Raw, "web-1", &[]));
}

#[test]
fn no_preset_has_what_reaches_everything() {
    for preset in ["observer", "backup", "operator"] {
        let text = format!("[[grant]]\nto = [\"token:a\"]\npreset = \"{preset}\"");
        for right in [
            Right::Exec,
            Right::FilesRead,
            Right::FilesWrite,
            Right::Accounts,
            Right::Raw,
            Right::FreezeForce,
        ] {
            assert!(!may(&rules(&text), &token("a"), right, "web-1", &[]), "{preset} {right:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_grant_or_token_is_said_by_key_and_never_repeats_a_token() {
    let hash = TokenHash::of("x").to_string();
    for (text, cause) in [
        ("[[grant]]\nto = []\n", "c.toml:2: grant[0].to: names nobody"),
        ("[[grant]]\nto = [\"backup\"]\n", "`backup` is no principal such as token:backup"),
        ("[[grant]]\nto = [\"unix:uid=007\"]\n", "`unix:uid=007` is no principal"),
        ("[[grant]]\nto = [\"token:a\"]\nvms = []\n", "names no VM"),
        ("[[grant]]\nto = [\"token:a\"]\nvms = [\"[\"]\n", "`[`: "),
        ("[[grant]]\nto = [\"token:a\"]\nrights = [\"all\"]\n", "unknown variant `all`"),
        ("[[grant]]\nto = [\"token:a\"]\n", "grant[0]: gives no right"),
        ("[[grant]]\nto = [\"token:a\"]\nrights = [\"files_read\"]\nfiles = []\n", "no directory"),
        (
            "[[grant]]\nto = [\"token:a\"]\nrights = [\"files_read\"]\nfiles = [\"/a/../b\"]\n",
            "is no absolute path",
        ),
        (
            "[[grant]]\nto = [\"token:a\"]\npreset = \"backup\"\nfiles = [\"/a\"]\n",
            "grant[0].files: limits files_read and files_write",
        ),
        (
            "[[grant]]\nto = [\"token:a\"]\nrights = [\"files_read\"]\nallow_unenforced = true\n",
            "grant[0].allow_unenforced: says how `files`",
        ),
        (
            "[[grant]]\nto = [\"token:a\"]\npreset = \"backup\"\nprograms = [{ path = \"/a\" }]\n",
            "grant[0].programs: limits exec",
        ),
        ("[[token]]\nname = \"a b\"\nsha256 = \"\"\n", "token[0].name: must be 1 to 64 letters"),
        ("[[token]]\nname = \"a\"\nsha256 = \"my secret\"\n", "is not a SHA-256"),
        (
            &format!("[[token]]\nname = \"default\"\nsha256 = \"{hash}\"\n"),
            "which is the token file's",
        ),
        (
            &format!("[[token]]\nname = \"a\"\nsha256 = \"{hash}\"\nexpires = \"soon\"\n"),
            "`soon` is no time",
        ),
        (
            &format!("[[token]]\nname = \"a\"\nsha256 = \"{hash}\"\n").repeat(2),
            "token[1].sha256: is that of token[0] already",
        ),
    ] {
        let error = Config::parse(text, Path::new("c.toml")).unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
        assert!(!error.contains("my secret") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn several_tokens_may_have_a_name_so_that_one_can_follow_another() {
    let text: String = ["old", "new"]
        .map(|token| format!("[[token]]\nname = \"a\"\nsha256 = \"{}\"\n", TokenHash::of(token)))
        .concat();
    let authority = Authority::new(rules(&text));
    for token in ["old", "new"] {
        assert_eq!(authority.bearer(token).unwrap().principal.as_str(), "token:a");
    }
    assert_eq!(authority.bearer("other"), None);
}

#[test]
fn an_expired_token_is_nobodys() {
    let text = |expires: SystemTime| {
        let expires = jiff::Timestamp::try_from(expires).unwrap();
        let hash = TokenHash::of("t");
        format!("[[token]]\nname = \"a\"\nsha256 = \"{hash}\"\nexpires = \"{expires}\"\n")
    };
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    assert!(Authority::new(rules(&text(now + hour))).bearer("t").is_some());
    assert!(Authority::new(rules(&text(now - hour))).bearer("t").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reload_ends_what_it_takes_away_and_nothing_else() {
    let text = |name: &str| {
        let hash = TokenHash::of("t");
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n")
    };
    let authority = Authority::new(rules(&text("a")));
    let mut watch = authority.watch(authority.bearer("t"));
    let mut end = std::pin::pin!(watch.until(|| true));
    let soon = Duration::from_secs(100);
    assert!(tokio::time::timeout(soon, &mut end).await.is_err());
    authority.replace(rules(&text("a")));
    assert!(tokio::time::timeout(soon, &mut end).await.is_err());
    authority.replace(rules(&text("b")));
    end.await;
    // The token of the token file outlives every reload.
    let authority = Authority::new(rules("")).with_token("own");
    let mut watch = authority.watch(authority.bearer("own"));
    authority.replace(rules(""));
    assert!(tokio::time::timeout(soon, watch.until(|| true)).await.is_err());
    watch.until(|| false).await;
}

#[test]
fn a_token_that_is_issued_can_be_used_with_the_lines_printed_beside_it() {
    let text = issue(&"job".parse().unwrap(), Some(&"2999-01-31T00:00:00Z".parse().unwrap()));
    let text = text.unwrap();
    let (secret, lines) = text.split_once('\n').unwrap();
    assert_eq!(secret.len(), 64);
    assert!(!lines.contains(secret));
    let authority = Authority::new(rules(lines));
    assert_eq!(authority.bearer(secret).unwrap().principal.as_str(), "token:job");
    assert_ne!(issue(&"job".parse().unwrap(), None).unwrap(), text);
    let grant =
        lines.replace("\n#", "\n").replace("\n That", "\n# That").replace("\n It", "\n# It");
    let rules = rules(&grant);
    assert!(may(&rules, &token("job"), Right::Freeze, "web-1", &[]));
}

/// A label and what is granted on it change places: at no moment is more allowed than before the
/// reload or after it.
#[test]
fn while_a_reload_is_under_way_both_rules_must_allow() {
    let on = |tier: &str| {
        rules(&format!(
            "[[grant]]\nto = [\"token:a\"]\nrights = [\"exec\"]\nlabels = {{ tier = \"{tier}\" }}\n"
        ))
    };
    let authority = Authority::new(on("test"));
    let may = |tier: &str| {
        let labels = [("tier".to_owned(), tier.to_owned())].into();
        let id = "web-1".parse().unwrap();
        let target = Target { id: &id, labels: Some(&labels) };
        authority.allow(&token("a"), Right::Exec, target)
    };
    assert_eq!((may("test"), may("prod")), (true, false));
    authority.begin(on("prod"));
    assert_eq!((may("test"), may("prod")), (false, false), "labels are of either configuration");
    authority.settle();
    assert_eq!((may("test"), may("prod")), (false, true));
}
