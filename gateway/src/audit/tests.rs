use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::*;

fn audit(file: &Path, required: bool) -> Audit {
    let config = AuditConfig { file: Some(file.into()), required, ..AuditConfig::default() };
    Audit::start(&config, "key").unwrap()
}

fn write(audit: &Audit, id: &str) {
    audit.request(&RequestRecord {
        time: SystemTime::UNIX_EPOCH,
        kind: "request",
        request_id: id,
        principal: Some("unix:uid=0"),
        method: "POST",
        path: "/vms/web-1/ping",
        vms: &["web-1".parse().unwrap()],
        lease_id: None,
        command: Some("guest-ping"),
        object: None,
        arguments: None,
        result: AuditResult::of(Some(200)),
        status: Some(200),
        code: None,
        micros: 7,
    });
}

/// The whole ones: what is read may just be written.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

fn dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    (dir, file)
}

#[test]
fn records_are_lines_of_a_file_that_only_its_group_reads() {
    let (_dir, file) = dir();
    let audit = audit(&file, false);
    write(&audit, "a");
    write(&audit, "b");
    audit.finish();
    let lines = lines(&file);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["time"], "1970-01-01T00:00:00.000000Z");
    assert_eq!((&lines[0]["vms"][0], &lines[0]["result"]), (&"web-1".into(), &"ok".into()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew_on_demand() {
    let (dir, file) = dir();
    let audit = audit(&file, false);
    write(&audit, "a");
    audit.finish();
    let old = dir.path().join("audit.jsonl.1");
    fs::rename(&file, &old).unwrap();
    write(&audit, "b");
    audit.finish();
    assert_eq!(lines(&old).len(), 2, "until it is told, it writes where it wrote");
    audit.reopen();
    write(&audit, "c");
    until(|| lines(&file).len() == 1);
    assert_eq!((lines(&old).len(), &lines(&file)[0]["request_id"]), (2, &"c".into()));
}

#[test]
fn a_disk_that_is_full_is_told_once_and_nothing_is_lost_when_there_is_room_again() {
    let (dir, file) = dir();
    let audit = audit(&file, true);
    write(&audit, "a");
    audit.finish();
    assert!(!audit.refuses());
    // Like a full disk, for one who cannot fill one: the file cannot be opened again.
    let away = dir.path().join("away");
    fs::rename(&file, &away).unwrap();
    fs::create_dir(&file).unwrap();
    audit.reopen();
    write(&audit, "b");
    until(|| audit.refuses());
    fs::remove_dir(&file).unwrap();
    write(&audit, "c");
    audit.reopen();
    until(|| !audit.refuses() && lines(&file).len() == 2);
    assert_eq!(lines(&file)[0]["request_id"], "b");
}

#[test]
fn what_finds_no_room_is_counted_on_record() {
    let (dir, file) = dir();
    let audit = audit(&file, true);
    fs::rename(&file, dir.path().join("away")).unwrap();
    fs::create_dir(&file).unwrap();
    audit.reopen();
    let long = "x".repeat(1 << 20);
    for _ in 0..6 {
        write(&audit, &long);
    }
    assert!(audit.refuses());
    fs::remove_dir(&file).unwrap();
    audit.reopen();
    until(|| lines(&file).last().is_some_and(|last| last["kind"] == "lost"));
    let lines = lines(&file);
    let lost = lines.last().unwrap()["records"].as_u64().unwrap();
    assert_eq!(lost + lines.len() as u64 - 1, 6);
}

#[test]
fn a_file_that_others_can_read_or_a_link_is_refused() {
    let (dir, file) = dir();
    let start = |path: &Path| {
        let config = AuditConfig { file: Some(path.into()), ..AuditConfig::default() };
        Audit::start(&config, "key").unwrap_err().to_string()
    };
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(start(&file).contains("open to everybody"));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(start(&link).contains("link: "));
}

#[test]
fn a_digest_is_the_same_for_the_same_and_says_nothing_without_the_key() {
    let (_dir, file) = dir();
    let one = audit(&file, false);
    let digest = one.digest("a=b", b"secret").unwrap();
    assert!(digest.starts_with("hmac-sha256:") && digest.len() == 12 + 64);
    assert_eq!(one.digest("a=b", b"secret").unwrap(), digest);
    assert_ne!(one.digest("a=", b"bsecret").unwrap(), digest);
    let config = AuditConfig { file: Some(file), ..AuditConfig::default() };
    let other = Audit::start(&config, "another").unwrap();
    assert_ne!(other.digest("a=b", b"secret").unwrap(), digest);
}

#[test]
fn results_by_status() {
    use AuditResult::{Abandoned, Failed, Ok, Refused};
    for (status, result) in [
        (Some(200), Ok),
        (Some(308), Ok),
        (Some(401), Refused),
        (Some(409), Refused),
        (Some(429), Refused),
        // The guest was asked, and refused or failed.
        (Some(422), Failed),
        (Some(504), Failed),
        (None, Abandoned),
    ] {
        assert_eq!(AuditResult::of(status), result, "{status:?}");
    }
}
